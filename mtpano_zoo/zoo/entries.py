"""What `checkpoints.yaml` says of every published checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from mtpano_zoo.resources import shipped
from mtpano_zoo.text_files import read_yaml

__all__ = ("Entry", "entries", "list_models", "models_table", "parse_entry")

COLUMNS = ("name", "tasks", "classes", "input", "trained on", "size", "licence of the weights", "from")


@dataclass(frozen=True)
class Entry:
    """A published checkpoint.

    Attributes:
        name: what `load_model` takes, `arch.tag`.
        description: one line.
        paper: address of the paper.
        repository: repository on the Hugging Face Hub; empty where the package itself brings the file.
        file: name of the file there, or its path in the package.
        revision: commit of the repository, or None while nobody has pinned it.
        sha256: checksum of the file, or None while nobody has seen it.
        size: size of the file in bytes, or None while nobody has seen it.
        format: which of `mtpano_zoo.reference.FORMATS` the file has, or `mtpano_zoo` for our own: safetensors, in any
            precision.
        network: which of `mtpano_zoo.models.NETWORKS` it belongs to.
        arguments: arguments of that network that are not named here.
        input_size: height and width that it was trained with.
        image_mean: mean that its images are normalised with, RGB in [0, 1].
        image_std: standard deviation that its images are normalised with.
        tasks: what it predicts.
        classes: names of its semantic classes, in order.
        normals_frame: frame of the normals in the file, one of `mtpano_zoo.models.base.NORMALS_FRAMES`.
        depth_unit: unit of its depth.
        license: licence of the code and of the weights (keys `code`, `weights`).
        upstream: models that it builds on (keys `name`, `license`).
        training_data: data sets that it was trained on.
        recipe: shipped configuration that trained it, or None.
        results: published scores, each with its `dataset` and `protocol`.
        limitations: what was seen not to work, one sentence each.
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
    network: str
    arguments: dict[str, Any]
    input_size: tuple[int, int]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    tasks: tuple[str, ...]
    classes: tuple[str, ...]
    normals_frame: str
    depth_unit: str
    license: dict[str, str]
    upstream: tuple[dict[str, str], ...]
    training_data: tuple[str, ...]
    recipe: str | None
    results: tuple[dict[str, Any], ...]
    limitations: tuple[str, ...]

    def network_description(self) -> dict[str, Any]:
        """Return what `build_network` takes: class, constructor arguments and card, as plain data."""
        own = ("tasks", "classes", "input_size", "image_mean", "image_std", "normals_frame")
        config = {key: _plain(getattr(self, key)) for key in own}
        return {"class": self.network, "config": {**self.arguments, **config}, "card": self.card()}

    def card(self) -> dict[str, Any]:
        """Return where the weights come from and what may be done with them, as plain data."""
        build = {"name", "format", "network", "arguments", "input_size", "image_mean", "image_std", "tasks", "classes"}
        if not self.repository:
            build |= {"repository", "revision"}
        known = {key: _plain(value) for key, value in asdict(self).items() if key not in {*build, "normals_frame"}}
        return {"source": self.name, **known}


def entries() -> dict[str, Entry]:
    """Read `checkpoints.yaml`: what is known of every published checkpoint, by name (`arch.tag`).

    Raises:
        ValueError: if an entry has an unknown key, or lacks one.
    """
    known = read_yaml(shipped("checkpoints.yaml"))
    return {name: parse_entry(name, values) for name, values in known.items()}


def parse_entry(name: str, values: Mapping[str, Any]) -> Entry:
    """Turn one entry of `checkpoints.yaml` into an `Entry`.

    Raises:
        ValueError: if it has an unknown key, or lacks one; the sentence names entry and key.
    """
    expected = {field.name for field in fields(Entry)} - {"name"}
    _check_keys(name, "", values, expected)
    _check_keys(name, "license.", values["license"], {"code", "weights"})
    for upstream in values["upstream"]:
        _check_keys(name, "upstream.", upstream, {"name", "license"})
    for result in values["results"]:
        _check_keys(name, "results.", result, {"dataset", "protocol"} | result.keys())
    arguments: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
    return Entry(name=name, **arguments)


def _check_keys(name: str, where: str, values: Mapping[str, Any], expected: set[str]) -> None:
    for what, keys in (("lacks", expected - values.keys()), ("has the unknown key", values.keys() - expected)):
        if keys:
            raise ValueError(f"The entry {name} of checkpoints.yaml {what} {where}{min(keys)}.")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the zoo that match a pattern with wildcards, e.g. `mtpano*`."""
    return sorted(name for name in entries() if fnmatchcase(name, pattern))


def models_table(pattern: str = "*") -> list[tuple[str, ...]]:
    """Tell of every model that matches a pattern what a user asks first: rows of text, the first one the titles."""
    known = entries()
    rows: list[tuple[str, ...]] = [COLUMNS]
    for entry in (known[name] for name in list_models(pattern)):
        size = "unknown" if entry.size is None else _size(entry.size)
        trained_on = ", ".join(data.partition(" (")[0] for data in entry.training_data)
        height, width = entry.input_size
        rows.append(
            (
                entry.name,
                ", ".join(entry.tasks),
                str(len(entry.classes)),
                f"{height} x {width}",
                trained_on,
                size,
                entry.license["weights"],
                f"Hugging Face Hub, {entry.repository}" if entry.repository else "the package",
            )
        )
    return rows
