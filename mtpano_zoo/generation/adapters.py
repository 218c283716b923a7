"""Read and write LoRA adapters of a FLUX.1 transformer so that published files and ours get the right alpha.

An adapted layer computes W + alpha / rank B A. diffusers reads alpha from the file's header and from keys that end in
`.alpha`, never from `adapter_config.json`; if it finds none, it uses alpha = rank.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.text_files import read_json

__all__ = ("FILE", "TARGETS", "add_adapter", "load_adapter", "read_adapter", "save_adapter")

FILE = "adapter_model.safetensors"
PREFIX = "transformer."
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The attention projections of the image tokens, which DiT360 adapts. Single blocks have no `to_out`."""
METADATA = "lora_adapter_metadata"
_LAYER = re.compile(r"transformer\.(.+)\.lora_([AB])\.weight")


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """Read an adapter, and add a key `.alpha` for every layer that lacks it.

    Args:
        path: A file, or a folder with exactly one `.safetensors` file. Where it has no key `.alpha`, its header counts,
            or an `adapter_config.json` beside it; without these, alpha is the rank.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file is damaged, or is not a plain LoRA adapter of a FLUX.1 transformer.
    """
    path = _file_of(Path(path))
    try:
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            header = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is truncated or not a safetensors file ({error}); copy it again") from error
    ranks = _ranks(weights, path)
    # For every layer: if some had none, diffusers would take the alpha of others for them.
    if lacking := {layer: float(rank) for layer, rank in ranks.items() if f"{PREFIX}{layer}.alpha" not in weights}:
        alphas = lacking | _alphas(header, path, ranks)
        weights |= {f"{PREFIX}{layer}.alpha": torch.tensor(alphas[layer]) for layer in lacking}
    return weights


def load_adapter(pipeline: Any, path: str | Path, strength: float = 1.0, dtype: torch.dtype | None = None) -> int:
    """Load an adapter into the transformer of a pipeline; return the number of adapted layers.

    Args:
        pipeline: `diffusers.FluxPipeline`.
        path: See `read_adapter`.
        strength: Factor on the change that the adapter makes.
        dtype: Precision of the adapter. If omitted, that of the transformer.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file is not an adapter, or does not fit the transformer.
    """
    weights = read_adapter(path)
    layers = {name: layer for name, layer in pipeline.transformer.named_modules() if isinstance(layer, nn.Linear)}
    for key, value in weights.items():
        if not (match := _LAYER.fullmatch(key)):
            continue
        name, side = match[1], match[2]
        if name not in layers:
            raise InputError(f"{path} adapts {name}, which this base's transformer does not have: use the right base")
        expected = layers[name].in_features if side == "A" else layers[name].out_features
        if value.shape[1 if side == "A" else 0] != expected:
            raise InputError(
                f"{path}: {key} is {tuple(value.shape)}, but {name} has {expected} features: use the right base"
            )
    wanted = {match[1] for key in weights if (match := _LAYER.fullmatch(key))}
    pipeline.load_lora_weights(weights, adapter_name="adapter")
    pipeline.set_adapters("adapter", strength)
    pipeline.transformer.eval()  # diffusers leaves new layers in training mode, with active dropout
    found = sum(hasattr(layer, "lora_A") for layer in pipeline.transformer.modules())
    if found != len(wanted):
        raise InputError(f"only {found} of the {len(wanted)} layers of {path} were loaded: it is for another base")
    if dtype is not None:  # diffusers has rounded the weights to the precision of the transformer
        for name in wanted:
            layer = pipeline.transformer.get_submodule(name)
            for side in "AB":
                value = weights[f"{PREFIX}{name}.lora_{side}.weight"]
                parameter = getattr(layer, f"lora_{side}")["adapter"].weight
                parameter.data = value.to(parameter.device, dtype)
    return found


def add_adapter(transformer: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> int:
    """Freeze a transformer, add an adapter to the projections of `TARGETS`, and return the number of layers.

    A new adapter changes nothing at first: A starts from N(0, 1 / rank^2) and B from zero, as published. If the
    transformer already has an adapter, its weights are used instead.

    Raises:
        InputError: If the rank is not positive, or the transformer has two adapters, or one with another rank, alpha or
            other layers. The transformer is not changed then.
    """
    from peft import LoraConfig

    if rank < 1:
        raise InputError(f"the rank of an adapter must be at least 1, not {rank}")
    existing = _existing_adapter(transformer)
    names = [
        name
        for name, layer in transformer.named_modules()
        if isinstance(getattr(layer, "base_layer", layer), nn.Linear)
        and re.fullmatch(r".*\.attn\.(to_[qkv]|to_out\.0)", name)
    ]
    if existing:
        _check_same(existing, names, rank, alpha)
        cast(Any, transformer).unload_lora()  # PEFT would not find the layers that are wrapped already
    transformer.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=cast(Any, alpha),
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=names,
        bias="none",
    )
    cast(Any, transformer).add_adapter(config, adapter_name="default")
    for name, (a, b, _) in existing.items():
        layer: Any = transformer.get_submodule(name)
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a, b
    return len(names)


def save_adapter(transformer: nn.Module, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> Path:
    """Write the adapter of a transformer in the layout that plain diffusers reads, with rank and alpha in the header.

    Dropout is written as 0, because diffusers would apply it when sampling.

    Args:
        transformer: Transformer with an adapter.
        folder: Folder to write to; an adapter that it already has is replaced.
        state: All weights by name. Needed if this process holds only a shard of them.

    Raises:
        OSError: If the file cannot be written.
    """
    from diffusers import FluxPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    folder = Path(folder)
    described = _collate_lora_metadata({"transformer": transformer})
    (metadata,) = described.values()
    metadata["lora_dropout"] = 0.0
    weights = {key: value.float() for key, value in get_peft_model_state_dict(transformer, state).items()}
    temporary = folder.with_name(f".{folder.name}.tmp")
    FluxPipeline.save_lora_weights(
        temporary, transformer_lora_layers=weights, weight_name=FILE, transformer_lora_adapter_metadata=metadata
    )
    folder.mkdir(parents=True, exist_ok=True)
    (temporary / FILE).replace(folder / FILE)
    temporary.rmdir()
    return folder / FILE


def _existing_adapter(transformer: nn.Module) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Return A, B and alpha, times the adapter's strength, of every layer that a transformer's adapter changes."""
    found = {}
    for name, layer in cast(Any, transformer.named_modules()):
        if hasattr(layer, "lora_A"):
            if len(layer.lora_A) > 1:
                raise InputError(f"the base has the adapters {', '.join(layer.lora_A)}: load only the one to train")
            (key,) = layer.lora_A
            a, b = layer.lora_A[key].weight.data, layer.lora_B[key].weight.data
            found[name] = a, b, float(layer.scaling[key]) * len(a)
    return found


def _check_same(
    existing: Mapping[str, tuple[Tensor, Tensor, float]], names: Sequence[str], rank: int, alpha: float
) -> None:
    """Check that an existing adapter has the layers, rank and alpha that the training asks for."""
    if set(existing) != set(names):
        raise InputError(
            f"the base's adapter changes {_layers(list(existing))}, but training changes {_layers(names)}: "
            "leave the adapter out"
        )
    ranks = sorted({len(a) for a, _, _ in existing.values()})
    if ranks != [rank]:
        raise InputError(
            f"the base's adapter has rank {' and '.join(map(str, ranks))}, but training asks for rank {rank}: "
            "set `rank` to that of the adapter, or leave the adapter out"
        )
    alphas = sorted({found for _, _, found in existing.values()})
    if not all(math.isclose(found, alpha, rel_tol=1e-6) for found in alphas):
        raise InputError(
            f"the base's adapter has alpha {' and '.join(f'{found:g}' for found in alphas)}, but training asks for "
            f"alpha {alpha:g}: set `alpha` to that of the adapter, or leave the adapter out"
        )


def _layers(names: Sequence[str]) -> str:
    """Return the number of layers and their names without those of their blocks."""
    kinds = sorted({re.sub(r"^.*?\.\d+\.", "", name) for name in names})
    return f"{len(names)} layers ({', '.join(kinds)})"


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(f"{path} holds {len(found)} .safetensors files, not one: pass the adapter's file")
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"there is no adapter at {path}")
    return path


def _ranks(weights: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    """Check all keys and return the rank of every layer."""
    sides: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        if "lora_magnitude_vector" in key or "dora_scale" in key:
            raise InputError(f"{path} is a DoRA adapter ({key}), which is not supported: use a plain LoRA")
        if ".default." in key:
            raise InputError(f"{path}: {key} contains the name of a PEFT adapter: save it with `save_lora_weights`")
        if key.endswith(".alpha"):
            continue
        if not (match := _LAYER.fullmatch(key)):
            raise InputError(
                f"{path}: the key {key} is not of the form transformer.LAYER.lora_A.weight: save the adapter with "
                "`FluxPipeline.save_lora_weights`"
            )
        sides.setdefault(match[1], {})[match[2]] = value
    if not sides:
        raise InputError(f"{path} holds no adapter")
    for name, pair in sides.items():
        if set(pair) != {"A", "B"} or pair["A"].ndim != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {side: tuple(value.shape) for side, value in pair.items()}
            raise InputError(f"{path}: lora_A and lora_B of {name} do not fit together: {shapes}")
    return {name: pair["A"].shape[0] for name, pair in sides.items()}


def _alphas(header: Mapping[str, str], path: Path, ranks: Mapping[str, int]) -> dict[str, float]:
    """Return the alpha of every layer, from the file's header or else from the configuration beside it.

    diffusers divides alpha by the rank, but a rank-stabilised adapter was trained with alpha / sqrt(rank).
    """
    from peft.utils.other import get_pattern_key

    beside = path.with_name("adapter_config.json")
    try:
        if METADATA in header:
            config = {k.removeprefix(PREFIX): v for k, v in json.loads(header[METADATA]).items()}
        elif beside.is_file():
            config = read_json(beside)
        else:
            return {}
        rank, alpha, patterns = int(config["r"]), float(config["lora_alpha"]), dict(config.get("alpha_pattern") or {})
        alphas = {layer: float(patterns.get(get_pattern_key(list(patterns), layer), alpha)) for layer in ranks}
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise InputError(f"{path}: the settings of the adapter (r, lora_alpha) cannot be read: {error}") from error
    if not config.get("rank_pattern") and (others := set(ranks.values()) - {rank}):
        raise InputError(f"{path} says rank {rank}, but has layers of rank {min(others)}: correct its settings")
    if config.get("use_dora"):
        raise InputError(f"{path} is a DoRA adapter, which is not supported: use a plain LoRA")
    if config.get("use_rslora"):
        alphas = {layer: value * math.sqrt(ranks[layer]) for layer, value in alphas.items()}
    return alphas
