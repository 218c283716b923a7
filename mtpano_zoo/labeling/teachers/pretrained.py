"""Networks of the package `transformers`: loaded safely, fed with tensors, and described for the manifest."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import Teacher
from mtpano_zoo.text_files import read_json
from mtpano_zoo.zoo.download import commit_of, download, verify

__all__ = (
    "Precision",
    "PretrainedNetwork",
    "TransformersNetwork",
    "import_transformers",
    "provenance_of",
    "read_tokenizer",
)

Precision = Literal["float32", "bfloat16", "float16"]

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
# Further files of a repository. The names in WORDS are for networks that read words.
BESIDES = ("preprocessor_config.json", "processor_config.json")
READERS = ("oneformer", "grounding-dino", "clip", "siglip", "siglip2")
WORDS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
# timm's prefixes for a repository or a folder in place of an architecture's name.
ELSEWHERE = re.compile(r"(hf[-_]hub|local-dir):", re.IGNORECASE)


class TransformersNetwork(nn.Module):
    """A network of `transformers` with its own preprocessing, which runs on the tensors' device.

    Args:
        source: A folder as `save_pretrained` writes it, or `user/name` on the Hugging Face Hub.
        revision: Commit, tag or branch on the Hub; by default its newest commit, which the provenance names.
        batch_size: Views that the network sees at once.
        size: Side in pixels to which a square view is resized for the network; by default the published size.
        precision: Precision of the arithmetic (autocast); the weights stay as they are.
        network_class: The class of `transformers` that loads it, by `model_type`; the entry `""` is for all others.
        **overrides: Changes to the configuration of the network.

    Attributes:
        model_type: Name of the architecture.
        folder: Where its files are.
        network: The network.
        provenance: Its description in the manifest of a run.

    Raises:
        InputError: If the package is missing, an argument is out of range, or the files are not such a network.
        OSError: If a file is missing or cannot be downloaded.
    """

    def __init__(
        self,
        source: str,
        revision: str | None,
        batch_size: int,
        size: int | None,
        precision: Precision,
        network_class: dict[str, str],
        **overrides: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (size is not None and size < 1):
            raise InputError(f"batch_size and size must be positive, got {batch_size} and {size}")
        if precision not in get_args(Precision):
            raise InputError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        transformers = import_transformers()
        folder, files, commit = _files(source, revision)
        for path in sorted(folder.glob("*.json")):
            read_json(path)  # limits size and depth, which the package does not
        config = _config(transformers, folder, source, overrides)
        self.folder = folder
        self.batch_size = batch_size
        self.precision = precision
        self.model_type: str = config.model_type
        name = network_class.get(self.model_type, network_class[""])
        self.network: Any = _network(getattr(transformers, name), folder, source, config)
        self.processor = _processor(transformers, folder, source)
        self._changes: dict[str, Any] = {} if size is None else {"size": _size(self.processor.size, size)}
        self.provenance: Mapping[str, Any] = provenance_of(
            type(self).__name__,
            source=source,
            revision=commit,
            files=files,
            network=type(self.network).__name__,
            packages=(torch, transformers),
            options={"batch_size": batch_size, "size": size, "precision": precision},
        )

    def prepare(self, images: Tensor) -> dict[str, Any]:
        """Return the input of the network for images (B, 3, h, w) in [0, 1], by its own image processor."""
        return dict(
            self.processor(
                images=list(images.float()),
                do_rescale=False,
                input_data_format="channels_first",
                return_tensors="pt",
                device=images.device,
                **self._changes,
            )
        )

    def batches(self, images: Tensor) -> Iterator[slice]:
        """Yield the parts of a stack of views that the network sees at once."""
        for start in range(0, len(images), self.batch_size):
            yield slice(start, start + self.batch_size)

    def run(self, inputs: dict[str, Any], images: Tensor) -> Any:
        """Return the output of the network, in its precision and without gradients."""
        lower = self.precision != "float32"
        dtype = getattr(torch, self.precision) if lower else None
        with torch.no_grad(), torch.autocast(images.device.type, dtype=dtype, enabled=lower):
            return self.network(**inputs)


class PretrainedNetwork(TransformersNetwork, Teacher):
    """Base of teachers that are a network of `transformers`, see `TransformersNetwork` for the arguments."""


def import_transformers() -> ModuleType:
    """Import the package `transformers`, which takes seconds, only when a teacher needs it.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError("this teacher needs the package transformers: pip install 'mtpano_zoo[teachers]'") from error
    package: ModuleType = transformers
    return package


def read_tokenizer(folder: Path, source: str) -> Any:
    """Return the tokenizer of a network that reads words.

    Raises:
        InputError: If the folder has none.
    """
    # Without these files the package silently creates a tokenizer that knows no words.
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(f"{source} has no tokenizer: it needs one of the files {', '.join(VOCABULARIES)}")
    try:
        return import_transformers().AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{source} has no tokenizer that can be read: {_first_line(error)}") from error


def provenance_of(
    name: str,
    *,
    source: str,
    revision: str | None,
    files: list[Path],
    network: str,
    packages: tuple[ModuleType, ...],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the description of a teacher in a manifest, as plain data; its weights are identified by their SHA-256."""
    return {
        "name": name,
        "source": source,
        "revision": revision,
        "sha256": {path.name: verify(path) for path in files},
        "network": network,
        "versions": {package.__name__: str(package.__version__) for package in packages},
        "options": options,
    }


def _files(source: str, revision: str | None) -> tuple[Path, list[Path], str | None]:
    """Return the folder of a network, its files of weights and, from the Hub, its commit."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{source} is a folder: a revision is for repositories on the Hugging Face Hub")
        weights = [WEIGHTS] if (folder / WEIGHTS).is_file() else _shards(folder / SHARDS)
        needed = [CONFIG, *(weights or [WEIGHTS])]
        if missing := [name for name in needed if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{source} has no {missing[0]}: write it with save_pretrained")
        return folder, [folder / name for name in weights], None
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise FileNotFoundError(f"there is no folder {source}")
    config = download(source, CONFIG, revision)
    commit = commit_of(config)
    try:
        files = [download(source, WEIGHTS, commit)]
    except FileNotFoundError as error:
        try:
            index = download(source, SHARDS, commit)
        except FileNotFoundError:
            raise error from None
        files = [download(source, name, commit) for name in _shards(index)]
    architecture = _read_object(config).get("model_type")
    for name in BESIDES + (WORDS if architecture in READERS else ()):
        try:
            download(source, name, commit)
        except FileNotFoundError:
            continue
    return config.parent, files, commit


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not the description of a network")
    return content


def _shards(index: Path) -> list[str]:
    """Return the files of weights that an index names, which are beside it."""
    if not index.is_file():
        return []
    files = _read_object(index).get("weight_map")
    names = list(files.values()) if isinstance(files, dict) else []
    if not names or not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise InputError(f"{index} has no valid weight_map from weights to safetensors files of its folder")
    return sorted(set(names))


def _config(transformers: ModuleType, folder: Path, source: str, overrides: dict[str, Any]) -> Any:
    if others := sorted(set(_other_sources(json.loads((folder / CONFIG).read_bytes())))):
        raise InputError(f"{source} refers to {others[0]}: a teacher must contain all its parts")
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **overrides
        )
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{source} is not a network that transformers {transformers.__version__} knows: {_first_line(error)}"
        ) from error


def _other_sources(content: Any) -> Iterator[str]:
    """Yield the other repositories or folders that a configuration makes `transformers` and timm load from."""
    if isinstance(content, str) and ELSEWHERE.match(content):
        yield content
    if isinstance(content, dict):
        backbone = content.get("backbone")
        own = content.get("model_type") == "timm_backbone" and not content.get("use_pretrained_backbone")
        if isinstance(backbone, str) and not own:
            yield backbone
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _other_sources(value)


def _network(network_class: Any, folder: Path, source: str, config: Any) -> Any:
    """Return the network with all its weights, from safetensors only and without code from the folder."""
    try:
        network, report = network_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise InputError(f"{source} cannot be loaded by {network_class.__name__}: {_first_line(error)}") from error
    # The package fills missing weights with random numbers and only warns.
    wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if wrong:
        raise InputError(
            f"{source} lacks {len(wrong)} weights of {type(network).__name__} or has them in another shape, such as "
            f"{wrong[0]}: it was trained for something else"
        )
    return network.eval().requires_grad_(False)


def _processor(transformers: ModuleType, folder: Path, source: str) -> Any:
    try:
        # OneFormer's would download class names, which only its training needs, from a place that any file can name.
        return transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, class_info_file=None
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} has no preprocessor_config.json that says how images are prepared: {_first_line(error)}"
        ) from error


def _size(published: Any, size: int) -> dict[str, int]:
    """Return the published size of the input with another side, in the same form."""
    sides = {key: value for key, value in dict(published).items() if value is not None}
    shortest = sides.get("shortest_edge")
    if shortest is None:
        return dict.fromkeys(sides, size)
    return {key: round(size * value / shortest) for key, value in sides.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
