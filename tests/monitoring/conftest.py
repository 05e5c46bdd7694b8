"""Makes `scripts.monitoring` importable: it is no part of the distribution."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
