"""Convert published MTPano checkpoints (`mtpano_model_*.pth.tar`) to `PDBridgeNet(convention="paper")`.

The keys and shapes that a published state dict must have are derived from our own network of the same sizes, whose
names are translated into the published ones.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.classes import ADE20K_CLASSES
from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import ViTEncoder, geometry_encoding
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.reference.format import Format
from mtpano_zoo.reference.keys import Renames, check_keys, check_prefixes, common_size, renamed

__all__ = ("FORMAT", "class_count", "convert_state_dict", "describe")

TITLE = "MTPano checkpoint"
HEAD_WIDTH = 64
PUBLISHED_TASKS = ("semseg", "depth", "normals")
POSITION_TOLERANCE = 1e-5
MODULES = ("backbone.embeddings.", "feature_grouping.", "bfe_invariant.")
"""Prefixes of which each begins at least one key of every MTPano checkpoint, whatever its tasks."""

STREAMS = ("refiners.", "aggregators.", "bridges.", "stream_injectors.")
"""Prefixes of our names for parts that a published network has twice, once for each stream."""

RENAMES: Renames = (
    # encoder
    (r"^encoder\.vit\.cls_token", "backbone.embeddings.cls_token"),
    (r"^encoder\.vit\.reg_token", "backbone.embeddings.register_tokens"),
    (r"^encoder\.vit\.patch_embed\.proj", "backbone.embeddings.patch_embeddings"),
    (r"^encoder\.vit\.blocks\.", "backbone.layer."),
    (r"^(backbone\..*)\.attn\.qkv\.", r"\1.attention.qkv_proj."),
    (r"^(backbone\..*)\.attn\.([qv])_bias", r"\1.attention.\2_proj.bias"),
    (r"^(backbone\..*)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"^(backbone\..*)\.gamma_([12])", r"\1.layer_scale\2.lambda1"),
    (r"^(backbone\..*)\.mlp\.fc1\.", r"\1.mlp.up_proj."),
    (r"^(backbone\..*)\.mlp\.fc2\.", r"\1.mlp.down_proj."),
    # streams
    (r"^refiners\.(\w+)\.(\d)\.blocks\.", r"feature_grouping.\2.\1_layers."),
    (r"^(feature_grouping\..*)\.reduce\.", r"\1.conv1."),
    (r"^(feature_grouping\..*)\.expand\.", r"\1.conv2."),
    (r"^(feature_grouping\..*)\.mixer\.(equator|pole)\.", r"\1.spatial_process.\2_conv."),
    (r"^(feature_grouping\..*)\.modulation\.", r"\1.geo_mlp."),
    (r"^aggregators\.(inv|var)\w+\.project\.", r"aggregator_\1.fusion_conv.0."),
    (r"^aggregators\.(inv|var)\w+\.norm\.", r"aggregator_\1.fusion_conv.1.norm."),
    (r"^stream_injectors\.(inv|var)\w+\.", r"\1_injectors."),
    # tasks
    (r"^(auxiliary_heads|bridges\.\w+\.squeeze)\.gradient\.", r"\1.grad."),
    (r"^(auxiliary_heads|bridges\.\w+\.squeeze)\.edge_distance\.", r"\1.sdf."),
    (r"^(auxiliary_heads|bridges\.\w+\.squeeze)\.point_map\.", r"\1.point."),
    (r"^auxiliary_heads\.(grad|sdf|point)\.", r"extended_heads.\1."),
    (r"^auxiliary_heads\.", "aux_heads."),
    (r"^((?:aux|extended)_heads\.\w+)\.feature\.([14])\.", r"\1.feature_extractor.\2.norm."),
    (r"^((?:aux|extended)_heads\.\w+)\.feature\.", r"\1.feature_extractor."),
    (r"^((?:aux|extended)_heads\.\w+)\.predictor\.", r"\1.classifier."),
    (r"^task_injectors\.", "aux_injectors."),
    (r"^adapters\.(\w+\.\d)\.1\.", r"task_adapters.\1.1.norm."),
    (r"^adapters\.", "task_adapters."),
    # bridges
    (r"^bridges\.(\w+)\.", r"bfe_\1."),
    (r"^(bfe_\w+)\.squeeze\.", r"\1.kv_squeeze."),
    (r"^(bfe_\w+)\.query_norm\.", r"\1.norm1_q."),
    (r"^(bfe_\w+)\.memory_norm\.", r"\1.norm1_kv."),
    (r"^(bfe_\w+)\.query\.", r"\1.cross_attn.to_q."),
    (r"^(bfe_\w+)\.key\.", r"\1.cross_attn.to_k."),
    (r"^(bfe_\w+)\.value\.", r"\1.cross_attn.to_v."),
    (r"^(bfe_\w+)\.project\.", r"\1.cross_attn.proj."),
    (r"^(bfe_\w+)\.mlp_norm\.", r"\1.norm2."),
    (r"^(bfe_\w+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"^(bfe_\w+)\.mlp\.2\.", r"\1.mlp.fc2."),
    # decoders
    (r"^(necks\.\w+)\.reassemble\.(\d)\.readout\.", r"\1.reassemble_stage.readout_projects.\2.0."),
    (r"^(necks\.\w+)\.reassemble\.(\d)\.project\.", r"\1.reassemble_stage.layers.\2.projection."),
    (r"^(necks\.\w+)\.reassemble\.(\d)\.resize\.", r"\1.reassemble_stage.layers.\2.resize."),
    (r"^(necks\.\w+)\.project\.", r"\1.convs."),
    (r"^(necks\.\w+)\.fuse\.(\d)\.project\.", r"\1.fusion_stage.layers.\2.projection."),
    (r"^(necks\.\w+)\.fuse\.(\d)\.skip\.", r"\1.fusion_stage.layers.\2.residual_layer1."),
    (r"^(necks\.\w+)\.fuse\.(\d)\.refine\.", r"\1.fusion_stage.layers.\2.residual_layer2."),
    (r"^(necks\..*)\.conv([12])\.", r"\1.convolution\2."),
    (r"^(necks\..*)\.norm([12])\.", r"\1.batch_norm\2."),
    (r"^heads\.semseg\.conv\.", "heads.semseg.head.0."),
    (r"^heads\.semseg\.norm\.", "heads.semseg.head.1."),
    (r"^heads\.semseg\.classify\.", "heads.semseg.head.4."),
    (r"^heads\.(depth|normals)\.conv1\.", r"heads.\1.head.0."),
    (r"^heads\.(depth|normals)\.conv2\.", r"heads.\1.head.2."),
    (r"^heads\.(depth|normals)\.predict\.", r"heads.\1.head.4."),
)
"""Our names to the published ones, applied one after the other."""

UNUSED: tuple[tuple[str, str], ...] = (
    (r"^backbone\.embeddings\.cls_token", "backbone.embeddings.mask_token"),
    (r"^backbone\.layer\.0\.norm1\.", "backbone.norm."),
    (r"^(necks\.\w+\.fusion_stage\.layers\.0)\.residual_layer2\.", r"\1.residual_layer1."),
)
"""Parameters that the published network carries but never uses, each after one of the same shape."""


# The last layers of outputs that are vectors in the camera's frame: for each of our axes, the published channel and its
# sign. The published normals are (forward, up, left), the published points (right, down, back). Permuting the weights
# permutes the outputs, exactly.
OUTPUT_FRAMES: dict[str, tuple[tuple[int, float], ...]] = {
    "heads.normals.predict": ((2, -1.0), (1, -1.0), (0, 1.0)),
    "auxiliary_heads.normals.predictor": ((2, -1.0), (1, -1.0), (0, 1.0)),
    "auxiliary_heads.point_map.predictor": ((0, 1.0), (1, 1.0), (2, -1.0)),
}


def class_count(state: Mapping[str, Tensor]) -> int:
    """Count the semantic classes of a published state dict; 0 if it was not trained for semseg."""
    if "semseg" not in _tasks(state):
        return 0
    return common_size(TITLE, state, ("heads.semseg.head.4.*", 0), ("aux_heads.semseg.classifier.*", 0))


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe the `PDBridgeNet` of a published state dict, read from its shapes.

    Attention heads are 64 wide. 150 classes are those of ADE20K; for any other number, classes are named by number.

    Raises:
        InputError: If it is not a state dict of MTPano, or its shapes belong to no such network.
    """
    check_prefixes(TITLE, state, MODULES)
    width = common_size(TITLE, state, ("backbone.layer.*.norm1.weight", 0))
    if width % HEAD_WIDTH:
        raise InputError(
            f"backbone.layer.0.norm1.weight has the width {width}, not a multiple of a head's {HEAD_WIDTH}."
        )
    blocks = Counter(re.sub(r"\d+", "", name, count=1) for name in state if name.startswith("backbone.layer."))
    encoder = {
        "name": "vit_large_patch16_dinov3_qkvb",
        "width": width,
        "depth": Counter(blocks.values()).most_common(1)[0][0],
        "heads": width // HEAD_WIDTH,
        "mlp_ratio": common_size(TITLE, state, ("backbone.layer.*.mlp.up_proj.bias", 0)) / width,
        "patch_size": common_size(TITLE, state, *[("backbone.embeddings.patch_embeddings.weight", i) for i in (2, 3)]),
    }
    classes = class_count(state)
    known = classes == len(ADE20K_CLASSES)
    arguments = {
        "encoder": {"class_path": "ViTEncoder", "init_args": encoder},
        "classes": list(ADE20K_CLASSES) if known else [f"class_{i}" for i in range(classes)],
        "tasks": _tasks(state),
        "convention": "paper",
        "bridge_width": common_size(TITLE, state, ("bfe_*.norm*.weight", 0)),
        "neck_widths": [
            common_size(TITLE, state, (f"necks.*.reassemble_stage.layers.{i}.*", 0), (f"necks.*.convs.{i}.weight", 1))
            for i in range(4)
        ],
        "fusion_width": common_size(TITLE, state, ("necks.*.fusion_stage.layers.*.projection.bias", 0)),
    }
    return {"class_path": "PDBridgeNet", "init_args": arguments}


def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a published state dict into that of the network that `describe` returns.

    Query, key and value are joined as timm keeps them. The two position buffers are left out after a check that they
    hold what our network computes. Weights that the published network never uses are left out too: the encoder's final
    norm and mask token, the first residual unit of every neck and, for a network with only some of the tasks, the
    stream or bridge that only the others need. Weights of another floating-point type, such as float16 and bfloat16,
    become float32. Normals and points come out in our frame.

    Raises:
        InputError: If a key is missing, unexpected or of another shape, or a position buffer differs from our geometry;
            the message has the published names.
    """
    arguments = describe(state)["init_args"]
    with torch.device("meta"):
        encoder = ViTEncoder(**arguments["encoder"]["init_args"])
        own = PDBridgeNet(**arguments | {"encoder": encoder}).state_dict()
        whole = own
        if arguments["tasks"] != list(PUBLISHED_TASKS):
            everything = {"tasks": list(PUBLISHED_TASKS), "classes": arguments["classes"] or ["any"]}
            whole = PDBridgeNet(**arguments | everything | {"encoder": encoder}).state_dict()
    parts = {name: _published_names(name) for name in own}
    check_keys(TITLE, state, dict(_expected_shapes(own | _of_both_streams(whole, own))), ("RayDir", "PE"))
    _check_positions(state["RayDir"], state["PE"])
    converted = {
        name: state[names[0]] if len(names) == 1 else torch.cat([state[part] for part in names])
        for name, names in parts.items()
    }
    converted = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in converted.items()}
    for layer, turn in OUTPUT_FRAMES.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in converted:
                converted[name] = torch.stack([sign * converted[name][channel] for channel, sign in turn])
    return converted


def _tasks(state: Mapping[str, Tensor]) -> list[str]:
    return [task for task in PUBLISHED_TASKS if any(name.startswith(f"heads.{task}.") for name in state)]


@cache  # every key is asked for twice, and all networks have the same ones
def _published_names(own: str) -> tuple[str, ...]:
    """Return the published name of one of our keys, or the three that it joins."""
    own = renamed(own, RENAMES)
    return tuple(own.replace("qkv_proj", f"{part}_proj") for part in "qkv") if "qkv_proj" in own else (own,)


def _of_both_streams(whole: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the stream and bridge parameters of the network with all tasks that also fit the tasks of our own."""
    tasks = {name.split(".")[1] for name in own if name.startswith("auxiliary_heads.")}
    return {
        name: tensor
        for name, tensor in whole.items()
        if name.startswith(STREAMS) and (".squeeze." not in name or name.split(".")[3] in tasks)
    }


def _expected_shapes(own: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every published key except the position buffers."""
    for name, tensor in own.items():
        for part in (published := _published_names(name)):
            shape = tuple(tensor.shape) if tensor.ndim == 0 else (len(tensor) // len(published), *tensor.shape[1:])
            yield part, shape
            for pattern, replacement in UNUSED:
                if re.search(pattern, part):
                    unused = re.sub(pattern, replacement, part)
                    yield unused, shape


def _check_positions(rays: Tensor, angles: Tensor) -> None:
    """Compare the two position buffers, (1, 3, H, W) and (1, 2, H, W), with what our network computes instead."""
    grid = tuple(rays.shape[-2:])
    if rays.shape != (1, 3, *grid) or angles.shape != (1, 2, *grid):
        raise InputError(
            f"The position buffers RayDir {tuple(rays.shape)} and PE {tuple(angles.shape)} of this MTPano checkpoint "
            "should be (1, 3, H, W) and (1, 2, H, W)."
        )
    geometry = geometry_encoding("paper", like=rays.float())
    for name, buffer, expected in (("RayDir", rays, geometry[:, :3]), ("PE", angles, geometry[:, 3:])):
        difference = (buffer.float() - expected).abs().max().item()
        # Angles go up to 2 pi, where half a step of the type is 2 eps.
        if not difference <= POSITION_TOLERANCE + 2 * torch.finfo(buffer.dtype).eps:
            raise InputError(
                f"{name} of this MTPano checkpoint differs by up to {difference:.2g} from what the geometry of "
                "PDBridgeNet computes for its grid: its weights were trained with other positions."
            )


FORMAT = Format(TITLE, MODULES, describe, convert_state_dict)
