"""A trained network prepared for fast prediction: only main outputs, folded norms, faster layers."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.winograd import WinogradConv2d, suits_winograd
from mtpano_zoo.outputs import check_precision, main_outputs

if TYPE_CHECKING:
    from mtpano_zoo.prediction import Prediction

__all__ = ("InferenceNetwork", "Precision", "prepare_for_inference")

Precision = Literal["float32", "bfloat16"]
# Below this width, and on smaller images, the transforms of Winograd's algorithm cost more than its products save.
WINOGRAD_CHANNELS = 128
WINOGRAD_ROWS = 256
GRAPHS = 4  # image sizes whose recordings are kept


class InferenceNetwork(nn.Module):
    """Network that `prepare_for_inference` returns: images (B, 3, H, W) in [0, 1] to float32 maps by main task.

    It works with `predict` and `mtpano run`, and can be compiled (`.compile(fullgraph=True)`) and exported; it can
    neither be trained nor saved.

    Args:
        network: the network to run, whose layers fit the precision.
        precision: `bfloat16` runs it under autocast.
        graphs: on a GPU, record its kernels once per image size, and replay them.
    """

    def __init__(self, network: nn.Module, precision: Precision, graphs: bool = False) -> None:
        super().__init__()
        self.network = network
        self.precision = precision
        self.graphs = graphs
        self._recorded: dict[Any, _Recorded] = {}
        for name in ("tasks", "classes", "palette", "input_size", "multiple", "ranges"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def forward(self, image: Tensor, max_distance: float | None = None) -> dict[str, Tensor]:
        """Predict the main tasks; `valid` up to `max_distance` if the network has such a mask."""
        if not self.graphs or not image.is_cuda:
            return self._run(image, max_distance)
        key = (image.shape, image.dtype, image.device, max_distance)
        if key not in self._recorded:
            if len(self._recorded) == GRAPHS:
                del self._recorded[next(iter(self._recorded))]
            self._recorded[key] = _Recorded(lambda x: self._run(x, max_distance), image)
        return self._recorded[key](image)

    def _run(self, image: Tensor, max_distance: float | None) -> dict[str, Tensor]:
        if self.precision == "float32":
            return main_outputs(self.network, image, max_distance)
        with torch.autocast(image.device.type, torch.bfloat16):
            return main_outputs(self.network, image, max_distance)

    def predict(self, source: Any, **options: Any) -> "Prediction | list[Prediction]":
        """Predict for a path, an image, an array or a tensor: see `mtpano_zoo.prediction.predict`."""
        from mtpano_zoo.prediction import predict

        return predict(self, source, **options)


class _Recorded:
    """The kernels of a function of one tensor on a GPU, started by one call instead of one by one.

    What it reads and writes stays at the same place in memory, hence the copies.
    """

    def __init__(self, function: Callable[[Tensor], dict[str, Tensor]], example: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.image = torch.empty_like(example).copy_(example)
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries choose their algorithms, compilers compile
                    function(self.image)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = function(self.image)

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            self.image.copy_(image)
            self.graph.replay()
            return {task: output.clone() for task, output in self.outputs.items()}


def prepare_for_inference(
    network: nn.Module, precision: Precision = "float32", *, winograd: bool | None = None, graphs: bool = False
) -> InferenceNetwork:
    """Return a copy of a network that predicts faster; the network itself does not change.

    Auxiliary predictions are left out, batch norms are folded into the convolutions before them, and weights are stored
    with channels last. With `bfloat16` the weights of convolutions and linear layers, except the last ones, are kept in
    that type, so that autocast need not convert them at every pass. Low-rank updates are merged. Parameters that do not
    change are shared with the network: prepare it again once it has been trained further.

    Args:
        network: any network of the zoo, on the device where it will run.
        precision: precision of convolutions and matrix products; outputs are float32.
        winograd: compute wide 3 x 3 convolutions by `WinogradConv2d`, in four times the memory of their weights: by
            default on a CPU, in float32 and for images of at least 256 rows. Pass False to compile the network.
        graphs: on a GPU, record the kernels once per size of the images and start them together from then on, since a
            single image takes less time than Python needs to start them. Each size keeps its memory. Without effect on
            a CPU.

    Raises:
        InputError: If the precision is unknown, does not fit the weights, or is bfloat16 with `winograd`.
    """
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision is float32 or bfloat16, not {precision}")
    if winograd and precision != "float32":
        raise InputError("Winograd's convolutions lose too much in bfloat16: leave winograd out, or use float32")
    check_precision(network, precision)
    made: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    for module in network.modules():
        # Every module has a dozen empty dictionaries of hooks, on which `deepcopy` spends most of its time.
        made |= {id(one): one.copy() for one in vars(module).values() if type(one) in (dict, OrderedDict) and not one}
    copied = copy.deepcopy(network, made).eval()
    _merge_updates(copied)
    device = next((p.device.type for p in copied.parameters()), "cpu")
    for module in list(copied.modules()):
        _fold_norms(module)
    if winograd is None:
        rows = getattr(network, "input_size", (0, 0))[0]
        winograd = device == "cpu" and precision == "float32" and rows >= WINOGRAD_ROWS
    if winograd:
        _use_winograd(copied)
    if precision == "bfloat16":
        modules = list(copied.modules())
        kept = {one.get_submodule(name) for one in modules for name in getattr(one, "full_precision", ())}
        for module in modules:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module not in kept:
                module.to(torch.bfloat16)
    return InferenceNetwork(copied.to(memory_format=torch.channels_last), precision, graphs).eval()


def _merge_updates(network: nn.Module) -> None:
    """Replace linear layers that have low-rank updates with plain ones.

    `remove_parametrizations` would take the weight from their class, which copies share with their originals.
    """
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
                plain = nn.Linear(layer.in_features, layer.out_features, device="meta")
                plain.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
                plain.bias = layer.bias
                setattr(module, name, plain)


def _fold_norms(module: nn.Module) -> None:
    """Fold the batch norms among a module's children into the convolutions right before them.

    A `Sequential` defines the pairs by its order, any other module by `folds`, pairs of names.
    """
    names = list(dict(module.named_children()))
    pairs = pairwise(names) if isinstance(module, nn.Sequential) else getattr(module, "folds", ())
    for convolution, norm in pairs:
        layer, following = module.get_submodule(convolution), module.get_submodule(norm)
        if isinstance(layer, nn.Conv2d) and type(following) is nn.BatchNorm2d:  # timm's may include an activation
            setattr(module, convolution, fuse_conv_bn_eval(layer, following).requires_grad_(False))
            setattr(module, norm, nn.Identity())


def _use_winograd(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if suits_winograd(layer) and min(layer.in_channels, layer.out_channels) >= WINOGRAD_CHANNELS:
                setattr(module, name, WinogradConv2d(layer))
