"""The invariants stand beside the tests that run them; importlib mode does not look there by itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
