"""Time by family of kernels, for inference and for a training step: python benchmarks/kernels.py.

The name of a kernel on a GPU, or of an operator on a CPU, decides its family. A GPU runs the published large network, a
CPU a small one unless ``--large`` is set. Shares refer to the total time of the kernels, not to wall-clock time, which
is longer on a GPU that waits for the host.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from inference import LARGE_ENCODER, SMALL, SMALL_ENCODER, random_network
from torch import nn
from torch.profiler import ProfilerActivity, profile
from training import batch_of

from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.losses import MultiTaskLoss
from mtpano_zoo.models import PDBridgeNet, prepare_for_inference

# Operators that compute nothing or only call others: they take hardly any time themselves.
VIEWS = """
alias as_strided chunk contiguous detach detach_ empty empty_like empty_strided expand expand_as narrow
new_empty permute reshape result_type select slice split split_with_sizes squeeze t to transpose unbind
unflatten unsafe_chunk unsafe_split unsqueeze view view_as _reshape_alias _unsafe_view conv2d convolution
_convolution linear matmul pad roll_ scaled_dot_product_attention layer_norm batch_norm _batch_norm_impl_index
zeros zeros_like ones new_zeros _to_copy
"""
# The first family with a part that occurs in the name counts; names of kernels are cut before their template arguments.
FAMILIES = {
    "attention": ("scaled_dot_product", "flash", "fmha", "attention"),
    "resize": ("upsample", "bilinear"),
    "convolution": ("conv", "wgrad", "dgrad", "fprop", "winograd", "cudnn"),
    "matrix": ("gemm", "addmm", "bmm", "mm", "nvjet", "cutlass", "dot"),
    "fourier": ("fft",),
    "optimiser": ("adam", "foreach", "multi_tensor"),
    "norm, softmax": ("norm", "softmax", "logsumexp"),
    "copy": ("copy", "memcpy", "memset", "catarray", "cat", "fill", "zero", "roll", "flip", "index"),
    "sum": ("reduce", "sum", "mean", "amax", "amin", "cummax", "scan", "scatter", "gather"),
    "elementwise": ("",),
}


def family(name: str) -> str:
    """Return the family of a kernel or an operator.

    Example:
        >>> family("aten::mkldnn_convolution"), family("sm90_xmma_gemm_bf16<float>"), family("aten::add_")
        ('convolution', 'matrix', 'elementwise')
    """
    short = name.removeprefix("aten::").removeprefix("void ").partition("<")[0].lower()
    if "elementwise_kernel" in short:  # its arguments say what it does
        return "copy" if "copy" in name.lower() else "elementwise"
    return next(kind for kind, parts in FAMILIES.items() if any(part in short for part in parts))


def by_family(call: Callable[[], object], cuda: bool) -> tuple[Counter[str], Counter[str]]:
    """Return the microseconds and the number of kernels of a call by family, after a warm-up."""
    call()
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        call()
        if cuda:
            torch.cuda.synchronize()
    time: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    views = set(VIEWS.split())
    for event in profiled.events():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device if cuda else event.name.startswith("aten::") and event.name[6:] not in views:
            time[family(event.name)] += microseconds
            calls[family(event.name)] += 1
    return time, calls


def print_table(rows: Iterable[tuple[str, tuple[Counter[str], Counter[str]]]]) -> None:
    """Print a Markdown table with a row for every family and columns for every call."""
    named = list(rows)
    print("| family | " + " | ".join(f"{name}: of the time | ms | kernels" for name, _ in named) + " |")
    print("|---|" + "--:|--:|--:|" * len(named))
    for kind in FAMILIES:
        if not any(calls[kind] for _, (_, calls) in named):
            continue
        cells = (
            f"{time[kind] / time.total():.1%} | {time[kind] / 1e3:.1f} | {calls[kind]}" for _, (time, calls) in named
        )
        print(f"| {kind} | " + " | ".join(cells) + " |")
    cells = (f"100 % | {time.total() / 1e3:.1f} | {calls.total()}" for _, (time, calls) in named)
    print("| all | " + " | ".join(cells) + " |", flush=True)


def inference(arguments: argparse.Namespace, device: str, large: bool) -> Callable[[], object]:
    """Return a prediction of the prepared network as a function; bf16 on a GPU."""
    network = random_network(arguments.height, small=not large).to(device)
    prepared = prepare_for_inference(network, "bfloat16" if device == "cuda" else "float32")
    image = torch.rand(arguments.batch, 3, arguments.height, 2 * arguments.height, device=device)
    return torch.inference_mode()(lambda: prepared(image))


def training(arguments: argparse.Namespace, device: str, large: bool) -> Callable[[], object]:
    """Return a training step as in `benchmarks/training.py` as a function; bf16 on a GPU."""
    encoder = ViTEncoder(**(LARGE_ENCODER if large else SMALL_ENCODER))
    names = [f"class {i}" for i in range(arguments.classes)]
    network = PDBridgeNet(encoder, names, convention=arguments.convention, **({} if large else SMALL)).to(device)
    loss, batch = MultiTaskLoss(), batch_of(arguments.batch, arguments.height, device, arguments.classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            outputs = network(batch["image"])
        loss(outputs, batch)["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print the table of inference and training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=256, help="rows of the panoramas")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--convention", choices=("sphere", "paper"), default="paper")
    parser.add_argument("--calls", nargs="+", choices=("inference", "training"), default=["inference", "training"])
    parser.add_argument("--large", action="store_true", help="use the large network on a CPU too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    large = arguments.large or device == "cuda"
    print(f"{'large' if large else 'small'} network, batch {arguments.batch} of {arguments.height} rows, {device}\n")
    makers = {"inference": inference, "training": training}
    rows = [(name, by_family(makers[name](arguments, device, large), device == "cuda")) for name in arguments.calls]
    print_table(rows)


if __name__ == "__main__":
    main()
