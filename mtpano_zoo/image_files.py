"""Find the images that a user names by files and folders, and name their results."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mtpano_zoo.errors import InputError

__all__ = ("IMAGE_SUFFIXES", "check_present", "find_images")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


def find_images(sources: Sequence[str | Path], out: Path) -> dict[Path, Path]:
    """Return every image and where its results go: a path below `out` that ends in the image's stem.

    An image in a folder keeps its sub-folders below that folder; a single image keeps none. If two images then share a
    name, all keep their folders below the common parent of all sources. Images that still share a name, like `a.png`
    and `a.jpg`, keep their suffix.

    Raises:
        InputError: If a folder has no images, there is no source at all, or `out` is a file or holds the images.

    Example:
        >>> found = find_images(["photos/room.jpg", "scans/room.jpg"], Path("results"))
        >>> [path.as_posix() for path in found.values()]
        ['results/photos/room', 'results/scans/room']
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder for the results")
    roots: dict[Path, Path] = {}  # for every image, the folder that its name is relative to
    for source in map(Path, sources):
        if not _is_folder(source):
            roots.setdefault(source, source.parent)
            continue
        if source.resolve() == out.resolve():
            raise InputError(f"{out} holds the images: give another folder, so that results are not taken for images")
        # Skip results of an earlier run in a folder below this one.
        results = out.resolve() if source.resolve() in out.resolve().parents else None
        found = [path for path in sorted(source.rglob("*")) if _is_image(path, source, results)]
        if not found:
            raise InputError(f"{source} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        for path in found:
            roots.setdefault(path, source)
    if not roots:
        raise InputError("no image and no folder was given")
    jobs: dict[Path, Path] = {}
    taken: set[str] = set()
    for image, name in _names(roots).items():
        if name not in taken:  # a name that is taken is the same image under another path
            taken.add(name)
            jobs[image] = out / name
    return jobs


def check_present(images: Iterable[Path]) -> None:
    """Refuse images of which none is there; one among others is reported when its turn comes.

    Raises:
        FileNotFoundError: If none of them exists.
    """
    images = list(images)
    if not any(map(_exists, images)):
        raise FileNotFoundError(f"There is no image at {images[0]}.")


def _names(roots: Mapping[Path, Path]) -> dict[Path, str]:
    """Return a name for the results of every image. Two paths share a name only if they are the same file."""
    names = {image: _without_suffix(image.relative_to(root)) for image, root in roots.items()}
    if not _clashing(names):
        return names
    absolute = {image: Path(os.path.abspath(image)) for image in roots}  # noqa: PTH100 - links keep their names
    shared = Path(os.path.commonpath([os.path.abspath(root) for root in roots.values()]))  # noqa: PTH100
    names = {image: _without_suffix(path.relative_to(shared)) for image, path in absolute.items()}
    # With its suffix, an image may clash with another one, as a.jpg does with a.jpg.png.
    while clashing := _clashing(names):
        names |= {image: absolute[image].relative_to(shared).as_posix() for image in clashing}
    return names


def _clashing(names: Mapping[Path, str]) -> list[Path]:
    """Return the images that share their name with another one."""
    files = {image: (name, os.path.realpath(image)) for image, name in names.items()}
    owners = Counter(name for name, _ in set(files.values()))
    return [image for image, name in names.items() if owners[name] > 1]


def _without_suffix(path: Path) -> str:
    return path.as_posix().removesuffix(path.suffix)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the name is too long; reading it fails later with a message
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _is_image(path: Path, folder: Path, excluded: Path | None) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and excluded not in path.resolve().parents
