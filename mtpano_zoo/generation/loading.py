"""Load a generator: a base with the interface of FLUX.1, chosen by the user, and an adapter."""

import hashlib
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.adapters import load_adapter
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.machine.device import check_device, default_device
from mtpano_zoo.machine.memory import available_memory
from mtpano_zoo.text_files import read_json, read_text
from mtpano_zoo.zoo.download import fetch
from mtpano_zoo.zoo.entries import generators

__all__ = (
    "NO_BASE",
    "PREFIX_FILE",
    "Offload",
    "PretrainedFlux",
    "describe_base",
    "device_for",
    "licence_of",
    "load_generator",
    "place",
    "precision_name",
    "precision_of",
    "show_licence",
)

Offload = Literal["none", "model", "group", "sequential"]
Quantization = Literal["none", "int8", "nf4"]
LICENCES = {
    "black-forest-labs/FLUX.1-dev": "FLUX.1 [dev] Non-Commercial License; an adapter trained on it inherits it",
    "black-forest-labs/FLUX.1-schnell": "Apache-2.0",
}
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
TEXTS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
LARGE = ("transformer", "text_encoder", "text_encoder_2", "vae")
PREFIX_FILE = "prompt_prefix.txt"  # beside trained weights
HASHED = 2**20  # bytes at the end of a weights file
NO_BASE = (
    "no base is given, and none is downloaded by default: pass a folder in diffusers layout as --base, or a repository "
    "such as black-forest-labs/FLUX.1-schnell (Apache-2.0) together with --download; `mtpano fit --config "
    "dit360/rooms-tiny.yaml` trains a small one"
)


def load_generator(
    base: str | Path | None,
    adapter: str | Path | None = None,
    *,
    strength: float = 1.0,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: Offload = "none",
    quantize: Quantization = "none",
    download: bool = False,
    prefix: str | None = None,
    transformer_only: bool = False,
) -> Generator:
    """Load a base and an adapter.

    Args:
        base: Folder in diffusers layout, or a repository of the Hugging Face Hub.
        adapter: Name in `checkpoints.yaml`, file or folder, see `mtpano_zoo.generation.adapters.read_adapter`.
        strength: Factor on the change that the adapter makes.
        dtype: Precision of the networks. If omitted, bfloat16 on a GPU and float32 on a CPU.
        device: Device of the networks. If omitted, a GPU if there is one.
        offload: ``model`` keeps one network at a time on the GPU, ``group`` one layer while the next is fetched,
            ``sequential`` one layer.
        quantize: Store the weights of transformer and T5 text encoder in 8 or 4 bits, by bitsandbytes.
        download: Download what is not in the cache.
        prefix: Text put before every prompt. If omitted, the one that the adapter or base was trained with.
        transformer_only: Load neither text encoders nor autoencoder, to train on precomputed latents.

    Raises:
        FileNotFoundError: If the adapter does not exist.
        InputError: If base or adapter are missing or cannot be used, an option is unknown, or the memory is too small.
    """
    if base is None:
        raise InputError(NO_BASE)
    if quantize not in get_args(Quantization):
        raise InputError(f"quantize must be one of {', '.join(get_args(Quantization))}, not {quantize!r}")
    device = device_for(device)
    dtype = dtype or precision_of(device)
    pipeline = _read(str(base), dtype, quantize, download, transformer_only)
    published = generators().get(str(adapter))
    if adapter is not None:
        load_adapter(pipeline, _adapter_file(adapter, download), strength)
    if prefix is None:
        prefix = published.prefix if published else trained_prefix(adapter or base)
    generator = Generator(pipeline, prefix=prefix)
    place(generator, device, offload)
    return generator


def trained_prefix(path: str | Path) -> str:
    """Return the text put before every prompt when an adapter or a base was trained here, from the file beside it."""
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / PREFIX_FILE
    return read_text(file) if path.exists() and file.is_file() else ""  # a repository has no file beside it


def device_for(device: str | torch.device | None) -> torch.device:
    """Check that a device can be used and return it; None means `default_device`.

    Raises:
        InputError: If the device cannot be used.
    """
    device = device or default_device()
    check_device(device)
    return torch.device(device)


def precision_of(device: torch.device) -> torch.dtype:
    """Return the default precision of networks on a device.

    Example:
        >>> precision_of(torch.device("cpu"))
        torch.float32
    """
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def precision_name(device: str | None) -> str:
    """Return the name of the default precision on a device, for a manifest.

    Raises:
        InputError: If the device cannot be used.

    Example:
        >>> precision_name("cpu")
        'float32'
    """
    return str(precision_of(device_for(device))).removeprefix("torch.")


def place(generator: Generator, device: torch.device, offload: Offload) -> None:
    """Move the networks of a pipeline to a device, all at once or when they are needed.

    Args:
        generator: Generator whose networks are moved.
        device: Device on which the networks run.
        offload: See `load_generator`.

    Raises:
        InputError: If `offload` is unknown or the device is a CPU, or the memory is too small.
    """
    pipeline = generator.pipeline
    if offload not in get_args(Offload):
        raise InputError(f"offload must be one of {', '.join(get_args(Offload))}, not {offload!r}")
    if offload == "none":
        with generator.enough_memory():
            pipeline.to(device)
    elif device.type == "cpu":
        raise InputError(f"--offload {offload} moves networks to a GPU, but the device is a CPU: leave it out")
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


class PretrainedFlux(Generator):
    """A base for `mtpano fit`, see `load_generator`.

    Args:
        source: Folder in diffusers layout, or a repository in the cache.
        adapter: Adapter to load into the base, in float32. `DiT360Module` continues to train it.
        dtype: Precision of the frozen weights: ``float32``, ``bfloat16`` or ``float16``.
        prefix: Text put before every prompt.
        transformer_only: Load neither text encoders nor autoencoder, to train on `LatentsDataModule`.
    """

    def __init__(
        self,
        source: str,
        adapter: str | None = None,
        dtype: str = "bfloat16",
        prefix: str = "",
        transformer_only: bool = False,
    ) -> None:
        known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype not in known:
            raise InputError(f"dtype must be one of {', '.join(known)}, not {dtype!r}")
        show_licence(source, adapter)
        loaded = load_generator(
            source, dtype=known[dtype], device="cpu", prefix=prefix, transformer_only=transformer_only
        )
        if adapter is not None:
            load_adapter(loaded.pipeline, _adapter_file(adapter, download=False), dtype=torch.float32)
        super().__init__(loaded.pipeline, prefix=prefix)


def licence_of(base: str | Path) -> str:
    """Return what is known about the licence of a base, in one line."""
    if str(base) in LICENCES:
        return LICENCES[str(base)]
    found = sorted(Path(base).glob("LICEN[CS]E*")) if Path(base).is_dir() else []
    return f"see {found[0]}" if found else "unknown: ask where the base comes from"


def describe_base(base: str | Path, adapter: str | Path | None) -> dict[str, Any]:
    """Return plain data that identifies base and adapter: names, sizes and hashes of their files.

    Weights are gigabytes, so only their end is hashed: training changes all of them.
    """
    folder = Path(base)
    files = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix == ".safetensors":
            files[path.relative_to(folder).as_posix()] = _size_and_end(path)
        elif path.suffix == ".json" and path.is_file():
            files[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    described: dict[str, Any] = {"name": str(base), "files": files or str(base), "adapter": None}
    if adapter is not None:
        path = Path(adapter)
        path = next(iter(sorted(path.glob("*.safetensors"))), path) if path.is_dir() else path
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(adapter)
        described["adapter"] = digest
    if prefix := trained_prefix(adapter or base):
        described["prefix"] = prefix
    return described


def _size_and_end(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - HASHED))
        return f"{size} bytes, {hashlib.sha256(file.read()).hexdigest()[:16]}"


def _read(base: str, dtype: torch.dtype, quantize: Quantization, download: bool, transformer_only: bool) -> Any:
    from diffusers import FluxPipeline, PipelineQuantizationConfig

    index = _index_of(base, download)
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": not download}
    if quantize != "none":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError(f"--quantize {quantize} needs bitsandbytes: pip install bitsandbytes")
        bits = {"load_in_8bit": True} if quantize == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        backend = f"bitsandbytes_{'8bit' if quantize == 'int8' else '4bit'}"
        options["quantization_config"] = PipelineQuantizationConfig(
            quant_backend=backend, quant_kwargs=bits, components_to_quantize=["transformer", "text_encoder_2"]
        )
    if transformer_only:
        options |= dict.fromkeys(("vae", *TEXTS))
    pixels = False
    if index is not None:
        incomplete = download and not Path(base).exists()  # a stopped download is resumed
        pixels = _check_index(base, index, transformer_only, incomplete) == "PixelCodec" and not transformer_only
        if quantize == "none":
            _check_memory(base, index.parent, dtype, ("transformer",) if transformer_only else LARGE)
    try:
        if not pixels:
            pipeline = FluxPipeline.from_pretrained(base, **options)
        else:
            from mtpano_zoo.generation.tiny import PixelCodec

            parts = dict(FluxPipeline.from_pretrained(base, vae=None, **options).components)
            codec = PixelCodec.from_pretrained(Path(base) / "vae", dtype=dtype)
            pipeline = FluxPipeline(**parts | {"vae": codec, "image_encoder": None, "feature_extractor": None})
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"the base {base} cannot be loaded: {first}") from error
    missing = [name for name, value in pipeline.transformer.named_parameters() if value.is_meta]
    if missing:  # diffusers silently leaves them without values
        raise InputError(
            f"the base {base} cannot be loaded: its transformer lacks the weights {missing[0]} and "
            f"{len(missing) - 1} more: copy the folder again"
        )
    return pipeline


def _index_of(base: str, download: bool) -> Path | None:
    """Return the path of a base's `model_index.json`; None for a repository that is yet to be downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    index = Path(base) / "model_index.json"
    if index.is_file():
        return index
    if Path(base).exists():
        raise InputError(f"{base} has no model_index.json: pass a folder in diffusers layout as base")
    try:
        cached = try_to_load_from_cache(base, "model_index.json")
    except HFValidationError as error:
        raise InputError(f"there is no base at {base}: pass a folder in diffusers layout") from error
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise InputError(
            f"the base {base} cannot be loaded: it is neither a folder nor a repository in the Hugging Face cache; "
            "`mtpano generate --download` downloads a repository whose licence you have accepted"
        )
    return None


def _check_index(base: str, index: Path, transformer_only: bool, incomplete: bool) -> Any:
    """Check the parts of a base and return its autoencoder's class; `incomplete`: files are yet to be downloaded."""
    parts = read_json(index)
    kind = parts.get("_class_name") if isinstance(parts, dict) else None
    if kind != "FluxPipeline":
        raise InputError(f"{base} is a {kind}, not a FluxPipeline: use a base with the interface of FLUX.1")
    classes = {name: (parts.get(name) or [None, None])[1] for name in ("transformer", "vae", *TEXTS)}
    if classes["transformer"] != "FluxTransformer2DModel":
        raise InputError(f"{base} has a {classes['transformer']}, not the transformer of FLUX.1: use another base")
    for name in () if transformer_only else ("vae", *TEXTS):
        # Without a vocabulary, transformers silently makes a tokenizer that knows no words.
        words = not name.startswith("tokenizer") or any((index.parent / name / file).is_file() for file in VOCABULARIES)
        if classes[name] is None or not (words or incomplete):
            raise InputError(f"{base} has no {name}: copy the whole folder, or use another base")
    return classes["vae"]


def _check_memory(base: str, folder: Path, dtype: torch.dtype, parts: Sequence[str]) -> None:
    """Check that the weights fit into main memory, through which they also reach a GPU."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in (path for part in parts for path in (folder / part).glob("*.safetensors")):
        if "." in path.stem:  # the same weights in another precision
            continue
        try:
            with safe_open(path, "pt") as file:
                count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except SafetensorError:
            continue  # diffusers will report it
    needed, free = count * dtype.itemsize, available_memory()
    if needed > free:
        raise InputError(
            f"the weights of {base} take {needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB of main memory are "
            f"free: in 4 bits (--quantize nf4 on a GPU), they take {count / 2e9:.1f} GB; or use a smaller base"
        )


def _adapter_file(adapter: str | Path, download: bool) -> str | Path:
    """Return where an adapter is: in the cache if it is published, otherwise the path that was passed."""
    entry = generators().get(str(adapter))
    if entry is None:
        return adapter
    try:
        return fetch(entry, cached_only=not download)[0]
    except FileNotFoundError as error:
        if download:
            raise
        raise InputError(
            f"the adapter {entry.name} is not in the cache: add --download, or pass the file {entry.file}"
        ) from error


def show_licence(base: str | Path, adapter: str | Path | None = None) -> None:
    """Print the licence of a base, and of a published adapter, to standard error."""
    print(f"base {base}: licence {licence_of(base)}", file=sys.stderr)
    if entry := generators().get(str(adapter)):
        print(f"adapter {entry.name}: licence {entry.license['weights']}", file=sys.stderr)
