"""The entries of `checkpoints.yaml`: every published checkpoint."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from mtpano_zoo.errors import InputError
from mtpano_zoo.resources import shipped
from mtpano_zoo.text_files import read_yaml

__all__ = ("Entry", "entries", "generators", "list_models", "models_table", "parse_entry")

KINDS = ("network", "generator")
COLUMNS = ("name", "tasks", "classes", "input", "trained on", "size", "licence of the weights", "from")


@dataclass(frozen=True)
class Entry:
    """A published checkpoint.

    Attributes:
        name: what `load_model` takes, `arch.tag`.
        description: one line.
        paper: address of the paper.
        repository: repository on the Hugging Face Hub; empty if the file comes with the package, or a page links it.
        file: name of the file there, or its path in the package or in the archive of the page.
        revision: commit of the repository, or None if it is not pinned.
        sha256: checksum of the file, or None if it is not known.
        size: size of the file in bytes, or None if it is not known.
        format: which of `mtpano_zoo.reference.FORMATS` the file has, or `mtpano_zoo` for our own: safetensors, in any
            precision.
        tasks: what it predicts.
        network: `class_path` and `init_args` that build its network.
        frames: frames of the vectors in the file, if they differ from ours; the conversion rotates these vectors.
        depth_unit: unit of its depth; empty for a network without depth.
        kind: `network`, which `load_model` loads, or `generator`, which `mtpano generate` and `load_generator` load.
        base: for a generator, the model that it adapts, which the user has to name.
        prefix: for a generator, the text that its prompts begin with.
        page: page that links the file, if it is not on the Hub and has to be downloaded by hand; else empty.
        license: licence of the code and of the weights (keys `code`, `weights`).
        upstream: models that it builds on (keys `name`, `license`).
        training_data: data sets that it was trained on.
        recipe: shipped configuration that trained it, or None.
        results: published scores, each with its `dataset` and `protocol`.
        limitations: known failures, one sentence each.
        familiarity: statistics of its features for images like those of its training, see
            `mtpano_zoo.prediction.familiarity`.
    """

    name: str
    description: str
    paper: str
    repository: str
    file: str
    revision: str | None
    sha256: str | None
    size: int | None
    format: str
    tasks: tuple[str, ...]
    license: dict[str, str]
    upstream: tuple[dict[str, str], ...]
    training_data: tuple[str, ...]
    recipe: str | None
    results: tuple[dict[str, Any], ...]
    limitations: tuple[str, ...]
    frames: dict[str, str] = field(default_factory=dict)
    depth_unit: str = ""
    network: dict[str, Any] = field(default_factory=lambda: {"class_path": "", "init_args": {}})
    kind: str = "network"
    base: str = ""
    prefix: str = ""
    page: str = ""
    familiarity: dict[str, Any] = field(default_factory=dict)

    @property
    def packaged(self) -> bool:
        """Whether the file comes with the package."""
        return not self.repository and not self.page

    @property
    def origin(self) -> str:
        """Where the file is."""
        if self.page:
            return f"download by hand, {self.page}"
        return "the package" if self.packaged else f"Hugging Face Hub, {self.repository}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its semantic classes, in order; empty if it has none."""
        return tuple(self.network["init_args"].get("classes", ()))

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that it was made for, if the entry states them."""
        size = self.network["init_args"].get("input_size")
        return None if size is None else (size[0], size[1])

    def card(self) -> dict[str, Any]:
        """Return where the weights come from and what may be done with them, as plain data."""
        left_out = {"name", "format", "network", "tasks", "frames", "kind", "base", "prefix", "page"}
        if not self.repository:
            left_out |= {"repository", "revision"}
        if not self.familiarity:
            left_out |= {"familiarity"}
        known = {key: _plain(value) for key, value in asdict(self).items() if key not in left_out}
        return {"source": self.name, **known}


def entries() -> dict[str, Entry]:
    """Read what `checkpoints.yaml` states about every published network, by name (`arch.tag`).

    Raises:
        InputError: If an entry has an unknown key, or lacks one.

    Example:
        >>> entries()["mtpano-tiny.rooms"].tasks
        ('semseg', 'depth', 'normals')
    """
    return _of_kind("network")


def generators() -> dict[str, Entry]:
    """Read what `checkpoints.yaml` states about every published generator of panoramas, by name.

    Raises:
        InputError: If an entry has an unknown key, or lacks one.

    Example:
        >>> generators()["dit360.flux-dev-lora"].base
        'black-forest-labs/FLUX.1-dev'
    """
    return _of_kind("generator")


def _of_kind(kind: str) -> dict[str, Entry]:
    known = read_yaml(shipped("checkpoints.yaml"))
    parsed = {name: parse_entry(name, values) for name, values in known.items()}
    return {name: entry for name, entry in parsed.items() if entry.kind == kind}


def parse_entry(name: str, values: Mapping[str, Any]) -> Entry:
    """Turn one entry of `checkpoints.yaml` into an `Entry`.

    Raises:
        InputError: If it has an unknown key, or lacks one; the message names entry and key.
    """
    required = {x.name for x in fields(Entry) if x.default is MISSING and x.default_factory is MISSING} - {"name"}
    kind = values.get("kind", "network")
    if kind not in KINDS:
        raise InputError(f"The entry {name} of checkpoints.yaml has the kind {kind!r}, which is not one of {KINDS}.")
    required |= {"network"} if kind == "network" else {"base"}
    _check_keys(name, "", values, required, {x.name for x in fields(Entry)} - {"name"})
    if kind == "network":
        _check_keys(name, "network.", values["network"], {"class_path", "init_args"})
    _check_keys(name, "license.", values["license"], {"code", "weights"})
    for upstream in values["upstream"]:
        _check_keys(name, "upstream.", upstream, {"name", "license"})
    for result in values["results"]:
        _check_keys(name, "results.", result, {"dataset", "protocol"} | result.keys())
    arguments: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
    return Entry(name=name, **arguments)


def _check_keys(
    name: str, where: str, values: Mapping[str, Any], required: set[str], known: set[str] | None = None
) -> None:
    unknown = values.keys() - (required if known is None else known)
    for what, keys in (("lacks", required - values.keys()), ("has the unknown key", unknown)):
        if keys:
            raise InputError(f"The entry {name} of checkpoints.yaml {what} {where}{min(keys)}.")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the networks that match a pattern with wildcards (`mtpano*`) or contain a text (`tiny`).

    Example:
        >>> list_models("rooms")
        ['mtpano-small.rooms', 'mtpano-tiny.rooms']
    """
    return _matching(pattern, entries())


def _matching(pattern: str, known: Mapping[str, Entry]) -> list[str]:
    if not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    return sorted(name for name in known if fnmatchcase(name, pattern.lower()))


def models_table(pattern: str = "*") -> list[tuple[str, ...]]:
    """Return table rows of the networks that match a pattern, then of the generators; the header is first.

    Example:
        >>> [row[:2] for row in models_table("mtpano-tiny*")]
        [('name', 'tasks'), ('mtpano-tiny.rooms', 'semseg, depth, normals')]
    """
    rows: list[tuple[str, ...]] = [COLUMNS]
    for known in (entries(), generators()):
        rows += [_row(known[name]) for name in _matching(pattern, known)]
    return rows


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        ", ".join(entry.tasks),
        str(len(entry.classes) or "-"),
        "any" if entry.input_size is None else "{} x {}".format(*entry.input_size),
        ", ".join(data.partition(" (")[0] for data in entry.training_data),
        "unknown" if entry.size is None else _size(entry.size),
        entry.license["weights"],
        entry.origin,
    )
