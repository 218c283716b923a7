"""Model cards: the README.md beside a network's weights, written from what the network records about itself."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

import mtpano_zoo
from mtpano_zoo.errors import InputError

if TYPE_CHECKING:
    from mtpano_zoo.models import PanoramaNetwork

__all__ = ("check_card", "model_card")

# The Hub's identifiers of licences. Any other licence is `other` there, with its name beside it.
HUB_LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "unknown",
)


@dataclass(frozen=True)
class TaskText:
    """Text of a card about a task.

    Attributes:
        tag: Tag on the Hugging Face Hub.
        pipeline_tag: Pipeline tag; the Hub allows one per model and has none for normals.
        use: A line of code that reads the map.
        meaning: What the values mean; `{classes}` stands for the numbered class names.
    """

    tag: str
    pipeline_tag: str
    use: str
    meaning: str


TEXTS = {
    "semseg": TaskText(
        "semantic-segmentation",
        "image-segmentation",
        "prediction.classes[prediction.semseg[0, 0]]  # the class of the first pixel",
        "**Classes** (`semseg`): the index of a class for every pixel; 255 = no label. {classes}.",
    ),
    "depth": TaskText(
        "depth-estimation",
        "depth-estimation",
        "prediction.depth  # (H, W) float32, metres along the ray; 0 = no value",
        "**Depth**: the distance from the camera along the ray of the pixel, in metres; 0 = no value. This is not the "
        "z-depth of a perspective camera.",
    ),
    "normals": TaskText(
        "surface-normals",
        "image-to-image",
        "prediction.normals  # (H, W, 3) float32, x right, y down, z forward, towards the camera",
        "**Normals**: unit vectors turned towards the camera, x right, y down, z forward, where the centre of the "
        "panorama looks along z; the zero vector = no value. They are predicted, not derived from the depth.",
    ),
    "valid": TaskText(
        "image-segmentation",
        "image-segmentation",
        "prediction.valid  # (H, W) bool, where the distance is defined and within range",
        "**Valid**: whether the distance of the pixel is defined and within the range of the network; where it is not, "
        "such as in the sky, the depth is 0.",
    ),
    "disparity": TaskText(
        "depth-estimation",
        "depth-estimation",
        "prediction.disparity  # (H, W) float32, inverse distance up to scale and shift; 0 = no value",
        "**Disparity**: the inverse of the distance along the ray up to an unknown scale and shift: it orders pixels "
        "by distance and has no unit.",
    ),
}


def check_card(card: Mapping[str, Any]) -> None:
    """Refuse a card that cannot be written or read.

    Raises:
        InputError: If it is not plain data, or a value has another type than in `checkpoints.yaml`.

    Example:
        >>> check_card({"paper": "https://arxiv.org/abs/2602.05330", "results": [{"dataset": "rooms", "mIoU": 0.58}]})
        >>> check_card({"training_data": "my rooms"})
        Traceback (most recent call last):
        mtpano_zoo.errors.InputError: card['training_data'] is a list as in checkpoints.yaml, not 'my rooms'.
    """
    if not isinstance(card, Mapping):
        raise InputError(f"A network's card must be a dictionary, not {card!r}.")
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise InputError(f"A network's card must be plain data that JSON can hold: {error}.") from error
    lists = dict.fromkeys(("upstream", "training_data", "results", "limitations"), list)
    for key, kind in {"license": dict, **lists}.items():
        if not isinstance(card.get(key) or kind(), kind):
            raise InputError(f"card[{key!r}] is a {kind.__name__} as in checkpoints.yaml, not {card[key]!r}.")
    for key in ("upstream", "results"):
        for row in card.get(key) or ():
            if not isinstance(row, dict) or (key == "upstream" and "name" not in row):
                keys = "name and license" if key == "upstream" else "columns of a table"
                raise InputError(f"card[{key!r}] holds dictionaries whose keys are {keys}, not {row!r}.")


def model_card(network: "PanoramaNetwork", source: str) -> str:
    """Write the card of a network in Markdown, with the front matter that the Hugging Face Hub reads.

    Whatever `network.card` lacks is listed as unknown: a card never claims more than is known.

    Args:
        network: The network; its `card` states its origin.
        source: What to pass to `load_model`, e.g. `hf-hub:user/repository`.

    Raises:
        InputError: If `network.card` cannot be written, see `check_card`.
    """
    card = network.card
    check_card(card)
    front_matter = yaml.safe_dump(_front_matter(network), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{front_matter}---",
        f"# {source.rpartition(':')[2].rpartition('/')[2]}",
        _flat(card.get("description") or "Nobody has described this network yet."),
        f"Paper: {_flat(card['paper'])}" if card.get("paper") else "",
        "## Use",
        f"With `mtpano_zoo` {mtpano_zoo.__version__} or newer:",
        _snippet(network.tasks, source),
        "## What it is",
        _table(("property", "value"), _properties(network)),
        "## What it predicts",
        *_predictions(network),
        "## Training data",
        _list(card.get("training_data")) or "Unknown.",
        f"Trained by `configs/{_flat(card['recipe'])}`, which begins with the commands." if card.get("recipe") else "",
        "## Results",
        _results(card.get("results")) or "None are stated.",
        *(("## Limitations", _list(card["limitations"])) if card.get("limitations") else ()),
        "## Licence",
        _table(("of", "licence"), _licenses(card)),
        "**Unknown** means that nobody has stated it here: ask the holder of the rights before you use these weights.",
        "## Origin",
        _list(_origin(card)) or "Unknown.",
        "This card was generated from the network; anything that nobody has stated is listed as unknown, not guessed.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(network: "PanoramaNetwork") -> dict[str, Any]:
    weights = _flat((network.card.get("license") or {}).get("weights") or "unknown")
    license_id = weights.lower().replace(" ", "-")
    known = license_id in HUB_LICENSES
    return {
        "license": license_id if known else "other",
        **({} if known else {"license_name": weights}),
        "library_name": "mtpano_zoo",
        "pipeline_tag": TEXTS[network.tasks[0]].pipeline_tag,
        "tags": [
            "panorama",
            "equirectangular",
            "360-degree",
            *dict.fromkeys(TEXTS[task].tag for task in network.tasks),
        ],
    }


def _snippet(tasks: Sequence[str], source: str) -> str:
    lines = [
        "from mtpano_zoo import load_model",
        "",
        f'model = load_model("{source}")',
        'prediction = model.predict("room.jpg")  # a full 360-degree panorama, twice as wide as high',
        *(TEXTS[task].use for task in tasks),
        'prediction.save("results")',
    ]
    return "\n".join(["```python", *lines, "```"])


def _properties(network: "PanoramaNetwork") -> Iterator[tuple[str, str]]:
    height, width = network.input_size
    yield "network", f"`{type(network).__name__}`"
    for name, value in network.config.items():
        if isinstance(value, dict) and "class_path" in value:
            architecture = value["init_args"].get("name", "")
            yield name, f"`{value['class_path']}` {architecture}".strip()
    yield "parameters", f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.1f} million"
    yield "tasks", ", ".join(network.tasks)
    if network.classes:
        yield "classes", str(len(network.classes))
    yield (
        "input",
        f"RGB equirectangular panorama; made for {height} x {width} pixels; `predict` resizes to this size and back",
    )


def _predictions(network: "PanoramaNetwork") -> Iterator[str]:
    names = ", ".join(f"{index} {_flat(name)}" for index, name in enumerate(network.classes))
    for task in network.tasks:
        yield TEXTS[task].meaning.format(classes=names)


def _results(results: Iterable[Mapping[str, Any]] | None) -> str:
    """Return a table of rows `{column: value}`, whose columns may differ, with the protocols listed below it."""
    rows = list(results or ())
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "protocol"))
    if not columns:
        return ""
    table = _table(columns, [[row.get(column, "-") for column in columns] for row in rows])
    protocols = _list(f"{row.get(columns[0], '')}: {row['protocol']}" for row in rows if "protocol" in row)
    return f"{table}\n\n{protocols}".strip()


def _licenses(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    license_of = card.get("license") or {}
    for name, key in (("weights", "weights"), ("original code", "code")):
        yield name, _flat(license_of.get(key) or "unknown")
    for upstream in card.get("upstream") or ():
        yield f"upstream: {upstream['name']}", _flat(upstream.get("license") or "unknown")


def _origin(card: Mapping[str, Any]) -> Iterator[str]:
    for name in ("source", "repository", "file", "revision", "sha256", "size"):
        if name in card:
            yield f"{name}: {_flat(card[name] or 'unknown')}"


def _list(items: Iterable[Any] | None) -> str:
    return "\n".join(f"- {_flat(item)}" for item in items or ())


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_flat(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _flat(value: Any) -> str:
    """Return a value as text on one line."""
    return " ".join(str(value).split())
