"""Find the network that a user names, without PyTorch, so that a wrong name or path is refused at once."""

import difflib
from pathlib import Path
from typing import NamedTuple, TypeAlias

from mtpano_zoo.errors import InputError
from mtpano_zoo.zoo.entries import Entry, entries, generators

__all__ = ("Place", "Repository", "locate")

SUFFIXES = (".ckpt", ".pt", ".pth", ".tar", ".safetensors")


class Repository(NamedTuple):
    """A repository of the Hugging Face Hub that `push_to_hub` wrote, and its revision; None for the newest."""

    name: str
    revision: str | None


# A published checkpoint, a repository, or the path of a file or a folder.
Place: TypeAlias = Entry | Repository | Path


def locate(source: str | Path) -> Place:
    """Return what a source is, see `mtpano_zoo.zoo.loading.load_model`.

    Raises:
        FileNotFoundError: If there is no file at a path, or the file of a name is not on the Hub.
        InputError: If there is no such name.

    Example:
        >>> locate("hf-hub:user/rooms@v1")
        Repository(name='user/rooms', revision='v1')
        >>> locate("mtpano-tiny.rooms").tasks
        ('semseg', 'depth', 'normals')
    """
    source = str(source)
    if source in ("", "local-dir:"):
        raise InputError(f"{source!r} names no network: pass a name that `mtpano models` lists, or a path.")
    known = entries()
    scheme, _, rest = source.partition(":")
    path = Path(rest if scheme == "local-dir" else source).expanduser()
    if source in known:
        if page := known[source].page:
            file = known[source].file
            raise FileNotFoundError(
                f"The file of {source} is not on the Hub: download the archive that {page} links, and pass the path of "
                f'{Path(file).name} instead of the name: load_model("/path/to/{file}").'
            )
        return known[source]
    if scheme == "hf-hub":
        name, _, revision = rest.partition("@")
        return Repository(name, revision or None)
    if scheme == "local-dir" or path.is_dir() or path.is_file():
        return path
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    if source in generators():
        raise InputError(
            f"{source} generates panoramas: `mtpano generate TEXT --base FLUX --adapter {source}` uses it."
        )
    nearest = difflib.get_close_matches(source.lower(), known, n=1, cutoff=0.0)[0]
    raise InputError(
        f"There is no model {source!r} in the zoo; did you mean {nearest!r}? "
        "`mtpano models` lists all names; for a checkpoint of your own, pass its path."
    )
