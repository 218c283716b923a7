"""Parameter groups: which parameters learn how fast, and which decay."""

from typing import Any, cast

from torch import nn
from torch.nn.modules.conv import _ConvNd

__all__ = ("parameter_groups",)

_DECAYING = (nn.Linear, _ConvNd, nn.MultiheadAttention)


def parameter_groups(module: nn.Module, *, lr: float, encoder_lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters into encoder and new layers, with and without weight decay.

    Only weights of linear and convolution layers decay: decay on biases, norms, tokens, position embeddings and layer
    scales pulls them towards a meaningless value. Each trainable parameter is in exactly one group, shared ones
    too; empty groups are left out. Groups are named for learning-rate monitors.

    Args:
        module: A module with ``network``, whose ``encoder_part``, if it has one, names the encoder.
        lr: Learning rate of the new layers.
        encoder_lr: Learning rate of the encoder.
        weight_decay: Decay of the groups that decay.
    """
    network = cast(nn.Module, module.network)
    part = getattr(network, "encoder_part", None)
    encoder_parameters = set() if part is None else {id(p) for p in network.get_submodule(part).parameters()}
    groups: list[dict[str, Any]] = [
        {"name": f"{part}/{kind}", "params": [], "lr": rate, "weight_decay": decay}
        for part, rate in (("new", lr), ("encoder", encoder_lr))
        for kind, decay in (("decay", weight_decay), ("no_decay", 0.0))
    ]
    seen: set[int] = set()
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decays = isinstance(layer, _DECAYING) and parameter.ndim > 1
            groups[2 * (id(parameter) in encoder_parameters) + (not decays)]["params"].append(parameter)
    return [group for group in groups if group["params"]]
