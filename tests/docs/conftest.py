"""Stand-ins of the public sets lie beside the tests that open them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
