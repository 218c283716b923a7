import sys
from pathlib import Path

# ray_caster.py serves several files of tests.
sys.path.insert(0, str(Path(__file__).parent))
