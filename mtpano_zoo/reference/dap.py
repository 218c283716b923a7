"""Convert the state dict of the published DAP checkpoint (`model.pth`) to that of `DAP(convention="paper")`.

The keys and shapes that a published state dict must have are derived from our own network of the same sizes, whose
names are translated into the published ones.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.models import DAP
from mtpano_zoo.reference.format import Format
from mtpano_zoo.reference.keys import Renames, check_keys, check_prefixes, common_size, renamed
from mtpano_zoo.spelling import listed

__all__ = ("FORMAT", "convert_state_dict", "describe")

TITLE = "DAP checkpoint"
MODULES = ("core.pretrained.model.blocks.", "core.depth_head.scratch.", "core.mask_head.scratch.")
"""Prefixes of which each begins at least one key of every DAP checkpoint."""

MAX_DISTANCE = 100.0  # metres that an output of 1 stands for
TAPS = {24: [4, 11, 17, 23]}  # blocks that are tapped, by the number of blocks, where it is not every quarter

RENAMES: Renames = (
    # encoder
    (r"^encoder\.vit\.reg_token", "core.pretrained.model.storage_tokens"),
    (r"^encoder\.vit\.rope\.", "core.pretrained.model.rope_embed."),
    (r"^encoder\.vit\.", "core.pretrained.model."),
    (r"^(core\.pretrained\..*)\.gamma_([12])", r"\1.ls\2.gamma"),
    (r"^(core\.pretrained\..*)\.[qv]_bias", r"\1.qkv.bias"),
    (r"^norms\.0\.", "core.pretrained.model.norm."),
    (r"^norms\.1\.", "core.pretrained.norm."),
    # decoders
    (r"^necks\.depth\.", "core.depth_head."),
    (r"^necks\.valid\.", "core.mask_head."),
    (r"\.reassemble\.(\d)\.project\.", r".projects.\1."),
    (r"\.reassemble\.(\d)\.resize\.", r".resize_layers.\1."),
    (r"_head\.project\.(\d)\.", lambda found: f"_head.scratch.layer{int(found[1]) + 1}_rn."),
    (r"\.fuse\.(\d)\.", lambda found: f".scratch.refinenet{4 - int(found[1])}."),
    (r"\.skip\.", ".resConfUnit1."),
    (r"\.refine\.", ".resConfUnit2."),
    (r"(refinenet\d)\.project\.", r"\1.out_conv."),
    (r"^depth_head\.", "core.depth_head."),
    (r"^range_heads\.0\.", "core.mask_head."),
    (r"_head\.conv1\.", "_head.scratch.output_conv1."),
    (r"_head\.conv2\.", "_head.scratch.output_conv2.0."),
    (r"_head\.predict\.", "_head.scratch.output_conv2.2."),
)
"""Our names to the published ones, applied one after the other."""

UNUSED: tuple[tuple[str, str], ...] = (
    (r"(refinenet4)\.resConfUnit2\.", r"\1.resConfUnit1."),
    (r"(\.attn\.qkv)\.bias$", r"\1.bias_mask"),
)
"""Parameters that the published network never uses, or only as a constant, each after one of the same shape."""

# Every block is in the published state dict a second time.
TWICE, BLOCKS = "core.pretrained.blocks.", "core.pretrained.model.blocks."


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe the `DAP` of a published state dict, read from its shapes.

    Raises:
        InputError: If it is not a state dict of DAP, or its shapes belong to no such network.
    """
    check_prefixes(TITLE, state, MODULES)
    width = _size(state, f"{BLOCKS}*.norm1.weight")
    head_width = 4 * _size(state, "core.pretrained.model.rope_embed.periods")
    if width % head_width:
        raise InputError(
            f"The blocks of this DAP checkpoint are {width} wide, not a multiple of a head's {head_width}."
        )
    depth = 1 + max(int(name.split(".")[4]) for name in state if name.startswith(BLOCKS))
    encoder = {
        "name": "vit_large_patch16_dinov3_qkvb",
        "width": width,
        "depth": depth,
        "heads": width // head_width,
        "mlp_ratio": _size(state, f"{BLOCKS}*.mlp.fc1.bias") / width,
        "patch_size": _size(state, "core.pretrained.model.patch_embed.proj.weight", 2),
        "taps": TAPS.get(depth),
    }
    arguments = {
        "encoder": {"class_path": "ViTEncoder", "init_args": encoder},
        "convention": "paper",
        "max_distance": MAX_DISTANCE,
        "ranges": [MAX_DISTANCE],
        "neck_widths": [_size(state, f"core.*_head.projects.{level}.bias") for level in range(4)],
        "fusion_width": _size(state, "core.*_head.scratch.refinenet*.out_conv.bias"),
    }
    return {"class_path": "DAP", "init_args": arguments}


def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a published state dict into that of the network that `describe` returns.

    The bias of query, key and value is split, and the third for the keys is left out, because the published network
    masks it. Parameters that it never uses are left out too: the mask token, the first residual unit of the coarsest
    level of every decoder, and the second copy of every block, after a check that it equals the first. The published
    mask marks what is out of range; ours has the opposite sign. Weights of another floating-point type become float32.

    Raises:
        InputError: If a key is missing, unexpected or of another shape, a mask is not what our network assumes, or the
            two copies of a block differ; the message has the published names.
    """
    arguments = describe(state)["init_args"]
    with torch.device("meta"):
        encoder = ViTEncoder(**arguments["encoder"]["init_args"])
        own = DAP(**arguments | {"encoder": encoder}).state_dict()
    expected = dict(_expected_shapes(own))
    if any(name.startswith(TWICE) for name in state):
        twice = {name.replace(BLOCKS, TWICE): shape for name, shape in expected.items() if name.startswith(BLOCKS)}
        expected |= twice
        check_keys(TITLE, state, expected)
        _check_copies(state, list(twice))
    else:
        check_keys(TITLE, state, expected)
    _check_masks(state)
    converted = {name: _part(name, state[renamed(name, RENAMES)]).float() for name in own}
    for name in ("range_heads.0.predict.weight", "range_heads.0.predict.bias"):
        converted[name] = -converted[name]
    return converted


def _size(state: Mapping[str, Tensor], pattern: str, dimension: int = 0) -> int:
    return common_size(TITLE, state, (pattern, dimension))


def _part(own: str, tensor: Tensor) -> Tensor:
    """Return the third of a query, key and value bias that our name stands for; other tensors are returned whole."""
    query, _, value = tensor.chunk(3) if own.endswith(("q_bias", "v_bias")) else (tensor, None, tensor)
    return value if own.endswith("v_bias") else query


def _expected_shapes(own: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every published key except the second copies of blocks."""
    for name, tensor in own.items():
        published, shape = renamed(name, RENAMES), tuple(tensor.shape)
        if name.endswith(("q_bias", "v_bias")):
            shape = (3 * shape[0],)
        yield published, shape
        for pattern, replacement in UNUSED:
            if re.search(pattern, published):
                yield re.sub(pattern, replacement, published), shape
        if published.endswith("cls_token"):
            yield published.replace("cls_token", "mask_token"), shape[1:]


def _check_copies(state: Mapping[str, Tensor], names: list[str]) -> None:
    if unequal := [name for name in names if not torch.equal(state[name], state[name.replace(TWICE, BLOCKS)])]:
        raise InputError(f"This {TITLE} holds its blocks twice, but the copies differ: {listed(unequal)}.")


def _check_masks(state: Mapping[str, Tensor]) -> None:
    """Compare the masks of biases with what our network assumes: ones, and zeros for the keys."""
    names = [name for name in state if name.startswith(BLOCKS) and name.endswith(".bias_mask")]
    wrong = []
    for name in names:
        query, key, value = state[name].chunk(3)
        if not ((query == 1).all() and (key == 0).all() and (value == 1).all()):
            wrong.append(name)
    if wrong:
        raise InputError(f"This {TITLE} masks other biases than those of the keys: {listed(wrong)}.")


FORMAT = Format(TITLE, MODULES, describe, convert_state_dict)
