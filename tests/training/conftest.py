import sys
from pathlib import Path

# YAML files of the tests name classes of tiny_training.py, so it must be importable.
sys.path.insert(0, str(Path(__file__).parent))
