"""Find the images that a user names by files and folders, and name their results."""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import formats
from mtpano_zoo.image_io.formats import IMAGE_SUFFIXES
from mtpano_zoo.output_paths import user_path

__all__ = (
    "IMAGE_SUFFIXES",
    "PLAIN_VIDEO_SUFFIXES",
    "VIDEO_SUFFIXES",
    "FoundFiles",
    "check_present",
    "files_below",
    "find_images",
    "is_video",
    "search_images",
)

PLAIN_VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")
VIDEO_SUFFIXES = (*PLAIN_VIDEO_SUFFIXES, ".insv", ".360")  # the last two hold fisheye images
RAW_SUFFIXES = (".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2")


class FoundFiles(NamedTuple):
    """Result of a search: every image with the path of its results, and why other files are not images."""

    images: dict[Path, Path]
    passed_over: dict[Path, str]


def find_images(sources: Sequence[str | Path], out: Path, videos: bool = False) -> dict[Path, Path]:
    """Return every image and where its results go: a path below `out` that ends in the image's stem.

    A source is an image, a folder, a pattern such as `tour/**/*.jpg`, or `@list.txt`, a file that names one of these in
    each line. Folders are searched with their sub-folders; links to folders are followed, but no folder is searched
    twice.

    An image in a folder keeps its sub-folders below that folder; a single image keeps none. If two images then share a
    name, all keep their folders below the common parent of all sources. Images that still share a name, like `a.png`
    and `a.jpg`, keep their suffix.

    A video is found if it is named itself or a pattern matches nothing else; with `videos`, if any pattern matches it.

    Raises:
        InputError: If a folder has no images, a pattern matches nothing, a list is empty or names a list, a source is
            empty or there is none, or `out` is a file or holds the images.
        OSError: If a list cannot be read.

    Example:
        >>> found = find_images(["photos/room.jpg", "scans/room.jpg"], Path("results"))
        >>> [path.as_posix() for path in found.values()]
        ['results/photos/room', 'results/scans/room']
    """
    return search_images(sources, out, videos).images


def search_images(sources: Sequence[str | Path], out: Path, videos: bool = False) -> FoundFiles:
    """Do what `find_images` does, and also return which files in folders and patterns are not images, and why.

    Hidden files, and results in `out`, are not listed.

    Raises:
        InputError: If `find_images` would raise it.
        OSError: If a list cannot be read.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose a folder for the results")
    passed_over: dict[Path, str] = {}
    roots: dict[Path, Path] = {}  # for every image, the folder that its name is relative to
    suffixes = IMAGE_SUFFIXES + PLAIN_VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    for source in _expanded(sources, out, suffixes, passed_over):
        if not _is_folder(source):
            roots.setdefault(source, source.parent)
            continue
        if source.resolve() == out.resolve():
            raise InputError(f"{out} holds the images: choose another folder, so that results are not taken for images")
        reasons = {path: _reason_against(path) for path in files_below(source, _results_below(source, out))}
        found = [path for path, reason in reasons.items() if reason is None]
        passed_over |= {path: reason for path, reason in reasons.items() if reason is not None}
        if not found:
            clips = [path for path in reasons if path.suffix.lower() in VIDEO_SUFFIXES]
            hint = f"; name videos themselves, as in {clips[0]}" if clips else ""
            raise InputError(f"{source} holds no image ({', '.join(IMAGE_SUFFIXES)}){hint}")
        for path in found:
            roots.setdefault(path, source)
    if not roots:
        raise InputError("no image and no folder: name at least one")
    jobs: dict[Path, Path] = {}
    taken: set[tuple[str, bool]] = set()
    for image, name in _names(roots).items():
        if (kind := _name_and_kind(image, name)) not in taken:  # otherwise it is the same image under another path
            taken.add(kind)
            jobs[image] = out / name
    return FoundFiles(jobs, passed_over)


def files_below(folder: Path, left_out: Path | None = None) -> list[Path]:
    """Return the files of a folder and its sub-folders in order, but no hidden ones.

    Links to folders are followed, but no folder is entered twice, and one may be left out.
    """
    entered: set[str] = set()
    files: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered or (left_out is not None and Path(real) == left_out):
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(files)


def check_present(images: Iterable[Path]) -> None:
    """Refuse images if none of them exists; a single missing one is reported when its turn comes.

    Raises:
        FileNotFoundError: If none of them exists.
    """
    images = list(images)
    if not any(map(_exists, images)):
        raise FileNotFoundError(f"There is no image at {images[0]}.")


def is_video(path: Path) -> bool:
    """Return whether a file holds a video, judged by its content; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return formats.is_video(file.read(12))
    except OSError:
        return False


def _expanded(
    sources: Sequence[str | Path], out: Path, suffixes: Sequence[str], passed_over: dict[Path, str]
) -> Iterator[Path]:
    """Yield images and folders in place of the patterns and lists that name them.

    Other files that a pattern matches besides those with the given suffixes are added to `passed_over`, with the
    reason.
    """
    for source in sources:
        text = os.path.expanduser(source)  # noqa: PTH111 - a path would lose what a pattern ends in
        path = Path(text)
        if not text:  # an unset variable of a shell; as a path, it would be the working folder
            raise InputError("a source is empty: name an image or a folder, or . for the working folder")
        if text.startswith("@") and not path.exists():
            lines = user_path(text[1:]).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
            named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            if not named:
                raise InputError(f"{text[1:]} names no image: write one path per line")
            if inner := next((line for line in named if line.startswith("@") and not Path(line).exists()), None):
                raise InputError(f"{text[1:]} names the list {inner}: write the images of that list into this one")
            yield from _expanded(named, out, suffixes, passed_over)
        elif glob.has_magic(text) and not _exists(path):
            results = _results_below(Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)), out)
            matches = [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207 - absolute ones too
            # `**` follows a link to a parent folder again and again, so only the shortest path to a file is kept.
            matches.sort(key=lambda match: -len(match.parts))
            once = {Path(os.path.realpath(match)): match for match in matches}
            found = sorted(match for real, match in once.items() if results not in (real, *real.parents))
            if not found:
                raise InputError(f"nothing matches {text}: check the pattern, or put it in quotes")
            images = [match for match in found if match.suffix.lower() in suffixes]
            others = sorted(set(found) - set(images)) if images else ()
            reasons = {match: _reason_against(match) for match in others if not _is_folder(match)}
            passed_over |= {match: reason for match, reason in reasons.items() if reason is not None}
            yield from images or found
        else:
            yield path


def _results_below(folder: Path, out: Path) -> Path | None:
    """Return the folder of results if it is below a searched folder, since it holds what earlier runs wrote."""
    return out.resolve() if folder.resolve() in out.resolve().parents else None


def _reason_against(path: Path) -> str | None:
    """Return why a file in a folder is not treated as an image; None if it is one."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a file"
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix in VIDEO_SUFFIXES:
        return "a video: name the file itself, which takes longer than an image, or extract its frames"
    if suffix in RAW_SUFFIXES:
        return "a raw image: develop it first"
    return f"{suffix or 'no suffix'} is not the suffix of an image; name the file itself if it is one"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


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
    """Return the images that share their name with another one, and videos that share it with another video."""
    kinds = {image: _name_and_kind(image, name) for image, name in names.items()}
    owners = Counter(kind for kind, _ in {(kind, os.path.realpath(image)) for image, kind in kinds.items()})
    return [image for image, kind in kinds.items() if owners[kind] > 1]


def _name_and_kind(image: Path, name: str) -> tuple[str, bool]:
    """Return the name of results and whether they are those of a video: other files than those of an image."""
    return name, image.suffix.lower() in VIDEO_SUFFIXES


def _without_suffix(path: Path) -> str:
    return path.as_posix().removesuffix(path.suffix)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the name is too long; reading it fails later with a message
        return False
