"""A small trainer stands beside the tests that use it; importlib mode does not look there by itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
