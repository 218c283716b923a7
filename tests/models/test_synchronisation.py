"""Nothing between two batches waits for the device: no value is read, no shape depends on values, nothing is copied."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtpano_zoo.losses import MultiTaskLoss, PublishedLoss
from mtpano_zoo.metrics import DepthMetrics, NormalsMetrics, SemsegMetrics
from mtpano_zoo.models import PDBridgeNet

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "aten.equal", "repeat_interleave")


class Waits(TorchDispatchMode):
    """Notes every operation for which a GPU would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        masks = func is torch.ops.aten.index.Tensor and any(x.dtype == torch.bool for x in tree_leaves(args[1]))
        devices = {x.device.type for x in (*inputs, *tree_leaves(outputs)) if isinstance(x, Tensor) and x.ndim}
        if masks or len(devices) > 1 or any(name in str(func) for name in READS):
            self.seen.append(str(func))
        return outputs


def batch(device: str, size: tuple[int, int] = (32, 64)) -> dict[str, Tensor]:
    options = {"device": device}
    return {
        "image": torch.rand(2, 3, *size, **options),
        "semseg": torch.randint(0, 3, (2, *size), **options),
        "depth": torch.rand(2, *size, **options) + 0.5,
        "normals": torch.rand(2, 3, *size, **options),
        "confidence": torch.rand(2, *size, **options),
    }


def test_the_watch_sees_what_waits() -> None:
    x = torch.rand(4)
    for wait in (lambda: x.sum().item(), lambda: x[x > 0.5], lambda: bool(x.sum() > 0), lambda: x.nonzero()):
        with Waits() as waits:
            wait()
        assert waits.seen


@pytest.mark.parametrize(("convention", "published"), [("sphere", False), ("paper", True)])
def test_forward_loss_and_metrics_on_a_gpu(
    tiny_network: Callable[..., PDBridgeNet], convention: str, published: bool
) -> None:
    """On a pretended GPU, where reading a value fails and copies from the host show."""
    network = tiny_network(convention=convention)
    loss = PublishedLoss() if published else MultiTaskLoss()
    metrics = {"semseg": SemsegMetrics(3), "depth": DepthMetrics(alignment="median"), "normals": NormalsMetrics()}
    with FakeTensorMode():
        for module in (network, *metrics.values()):
            pretend(module)
        data = batch("cuda")
        with Waits() as waits:
            outputs = network(data["image"])
            loss(outputs, data)
            for task, metric in metrics.items():
                metric.update(outputs[task], data[task])
    assert waits.seen == []


def pretend(module: nn.Module) -> None:
    """Put a module on the pretended GPU."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, x in tensors.items():
                if x is not None:
                    fake = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                    tensors[name] = nn.Parameter(fake) if isinstance(x, nn.Parameter) else fake
    for name in getattr(module, "_defaults", ()):  # the states of a metric
        state = getattr(module, name)
        setattr(module, name, torch.empty(state.shape, dtype=state.dtype, device="cuda"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_backward(tiny_network: Callable[..., PDBridgeNet], checkpointing: bool) -> None:
    network = tiny_network().train()
    network.set_gradient_checkpointing(checkpointing)
    data = batch("cpu")
    with Waits() as waits:
        MultiTaskLoss()(network(data["image"]), data)["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    assert waits.seen == []
