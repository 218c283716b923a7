"""The published MTPano checkpoints (`mtpano_model_*.pth.tar`): their state dict to `PDBridgeNet(variant="paper")`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ("convert_state_dict",)

# Parameters that take no part in what the published network computes.
UNUSED = re.compile(
    r"RayDir|PE|backbone\.embeddings\.mask_token|backbone\.norm\..*"
    r"|necks\.\w+\.fusion_stage\.layers\.0\.residual_layer1\..*"
)

RENAMES: tuple[tuple[str, str], ...] = (
    # encoder
    (r"^backbone\.embeddings\.cls_token", "encoder.vit.cls_token"),
    (r"^backbone\.embeddings\.register_tokens", "encoder.vit.reg_token"),
    (r"^backbone\.embeddings\.patch_embeddings", "encoder.vit.patch_embed.proj"),
    (r"^backbone\.layer\.(\d+)\.", r"encoder.vit.blocks.\1."),
    (r"\.attention\.o_proj", ".attn.proj"),
    (r"\.attention\.([qv])_proj\.bias", r".attn.\1_bias"),
    (r"\.layer_scale([12])\.lambda1", r".gamma_\1"),
    (r"\.mlp\.up_proj", ".mlp.fc1"),
    (r"\.mlp\.down_proj", ".mlp.fc2"),
    # streams
    (r"^feature_grouping\.(\d)\.(invariant|variant)_layers\.(\d)\.", r"refiners.\2.\1.blocks.\3."),
    (r"^(refiners\..*)\.conv1\.", r"\1.reduce."),
    (r"^(refiners\..*)\.conv2\.", r"\1.expand."),
    (r"\.spatial_process\.(equator|pole)_conv\.", r".mixer.\1."),
    (r"\.geo_mlp\.", ".modulation."),
    (r"^aggregator_inv\.", "aggregators.invariant."),
    (r"^aggregator_var\.", "aggregators.variant."),
    (r"^(aggregators\.\w+)\.fusion_conv\.0\.", r"\1.project."),
    (r"^(aggregators\.\w+)\.fusion_conv\.1\.norm\.", r"\1.norm."),
    (r"^inv_injectors\.", "stream_injectors.invariant."),
    (r"^var_injectors\.", "stream_injectors.variant."),
    # tasks
    (r"^(aux|extended)_heads\.", "auxiliary_heads."),
    (r"\.feature_extractor\.", ".feature."),
    (r"\.classifier\.", ".predictor."),
    (r"^aux_injectors\.", "task_injectors."),
    (r"^task_adapters\.", "adapters."),
    (r"^(auxiliary_heads|adapters)\.(.*)\.norm\.", r"\1.\2."),
    # bridges
    (r"^bfe_(invariant|variant)\.", r"bridges.\1."),
    (r"\.kv_squeeze\.", ".squeeze."),
    (r"\.norm1_q\.", ".query_norm."),
    (r"\.norm1_kv\.", ".memory_norm."),
    (r"\.cross_attn\.to_q\.", ".query."),
    (r"\.cross_attn\.to_k\.", ".key."),
    (r"\.cross_attn\.to_v\.", ".value."),
    (r"\.cross_attn\.proj\.", ".project."),
    (r"^(bridges\.\w+)\.norm2\.", r"\1.mlp_norm."),
    (r"^(bridges\.\w+)\.mlp\.fc1\.", r"\1.mlp.0."),
    (r"^(bridges\.\w+)\.mlp\.fc2\.", r"\1.mlp.2."),
    (r"^(auxiliary_heads|.*\.squeeze)\.grad\.", r"\1.gradient."),
    (r"^(auxiliary_heads|.*\.squeeze)\.sdf\.", r"\1.edge_distance."),
    (r"^(auxiliary_heads|.*\.squeeze)\.point\.", r"\1.point_map."),
    # decoders
    (r"\.reassemble_stage\.readout_projects\.(\d)\.0\.", r".reassemble.\1.readout."),
    (r"\.reassemble_stage\.layers\.(\d)\.projection\.", r".reassemble.\1.project."),
    (r"\.reassemble_stage\.layers\.(\d)\.resize\.", r".reassemble.\1.resize."),
    (r"^(necks\.\w+)\.convs\.", r"\1.project."),
    (r"\.fusion_stage\.layers\.(\d)\.projection\.", r".fuse.\1.project."),
    (r"\.fusion_stage\.layers\.(\d)\.residual_layer1\.", r".fuse.\1.skip."),
    (r"\.fusion_stage\.layers\.(\d)\.residual_layer2\.", r".fuse.\1.refine."),
    (r"\.convolution([12])\.", r".conv\1."),
    (r"\.batch_norm([12])\.", r".norm\1."),
    (r"^heads\.semseg\.head\.0\.", "heads.semseg.conv."),
    (r"^heads\.semseg\.head\.1\.", "heads.semseg.norm."),
    (r"^heads\.semseg\.head\.4\.", "heads.semseg.classify."),
    (r"^heads\.(depth|normals)\.head\.0\.", r"heads.\1.conv1."),
    (r"^heads\.(depth|normals)\.head\.2\.", r"heads.\1.conv2."),
    (r"^heads\.(depth|normals)\.head\.4\.", r"heads.\1.predict."),
)


def convert_state_dict(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a published state dict to those of `PDBridgeNet(variant="paper")`.

    Query, key and value projections are joined as timm keeps them; a leading `module.` is forgotten; the parameters
    that the published network never uses (final norm and mask token of the encoder, first residual unit of each neck)
    and its two position buffers are left out. Nothing else is: what has no counterpart fails in a strict load.
    """
    published = {name.removeprefix("module."): tensor for name, tensor in published.items()}
    converted: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if UNUSED.fullmatch(name) or re.search(r"attention\.[kv]_proj\.weight", name):
            continue
        if name.endswith("attention.q_proj.weight"):
            parts = [published[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            tensor = torch.cat(parts)
            name = name.replace("attention.q_proj", "attn.qkv")
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = tensor
    return converted
