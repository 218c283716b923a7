"""Images for `mtpano run`, and the names of what it makes of them."""

from PIL import Image

from mtpano_zoo.manifest import MANIFEST
from mtpano_zoo.prediction.folder import RECORDS

KINDS = ("depth.npy", "depth.png", "panel.png")


def save(path, level=128, size=(32, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)
    return path


def names(folder):
    """All files but those that say what made the others."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name not in (MANIFEST, RECORDS)]
