"""A GPU that is only pretended: its tensors say `cuda` and hold values of the CPU.

To compute with tensors of both fails, as it does with a GPU. PyTorch's own FakeTensorMode knows no values, so whatever
depends on them, such as the number of pixels in a mask, cannot run in it. Gradients cannot be computed in either.
"""

from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
COPIES = ("aten._to_copy", "aten.copy_", "aten._copy_from")
INDEXED = ("aten.index.", "aten.index_put", "aten._index_put_impl_", "aten._unsafe_index")


class OnGPU(Tensor):
    """A tensor of the pretended GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        with torch.inference_mode(False):
            made: Self = Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=GPU)  # type: ignore[attr-defined]
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: None = None) -> str:
        return f"OnGPU({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class PretendedGPU(TorchDispatchMode):
    """Within it, `device="cuda"` is the pretended GPU."""

    def __enter__(self) -> Self:
        torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, since there is no driver
        with ExitStack() as stack:
            stack.enter_context(patch.object(torch.cuda, "_lazy_init"))
            # The CPU has no counterpart of these kernels.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            before = torch._C._only_lift_cpu_tensors()
            torch._C._set_only_lift_cpu_tensors(True)
            stack.callback(torch._C._set_only_lift_cpu_tensors, before)
            self.changes = stack.pop_all()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self.changes.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def put_on_gpu(module: nn.Module) -> nn.Module:
    """Move the parameters and buffers of a module to the pretended GPU."""
    for part in module.modules():
        for name, x in part._parameters.items():
            part._parameters[name] = None if x is None else nn.Parameter(OnGPU(x.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else OnGPU(buffer)
    return module


def held(x: Any) -> Any:
    """Return the values of a tensor of the pretended GPU; whatever else as it is."""
    return x.held if isinstance(x, OnGPU) else x


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    name = str(func)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if not name.startswith(COPIES):
        _check_one_device(name, args, tensors)
    leaves, structure = tree_flatten((args, kwargs))
    asked = [x for x in leaves if isinstance(x, torch.device)]
    args, kwargs = tree_unflatten([CPU if isinstance(x, torch.device) else held(x) for x in leaves], structure)
    result = func(*args, **kwargs)
    if name.startswith("aten.copy_"):
        there = isinstance(tensors[0], OnGPU)
    else:
        there = asked[0].type == "cuda" if asked else any(isinstance(x, OnGPU) for x in tensors)
    if not there:
        return result
    known = {id(x.held): x for x in tensors if isinstance(x, OnGPU)}  # what was changed in place
    return tree_map(lambda x: known.get(id(x), OnGPU(x)) if isinstance(x, Tensor) else x, result)


def _check_one_device(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Numbers of the host fit everywhere, and so do its indices for a tensor of the GPU."""
    if name.startswith(INDEXED) and isinstance(args[0], OnGPU):
        tensors = [x for i, x in enumerate(args) if i != 1 and isinstance(x, Tensor)]
    devices = {x.device.type for x in tensors if x.ndim or isinstance(x, OnGPU)}
    if len(devices) > 1:
        shapes = [f"{tuple(x.shape)} on {x.device.type}" for x in tensors]
        raise RuntimeError(f"{name} got tensors of two devices: {', '.join(shapes)}")
