"""Where the students of Depth Anywhere spend their time: sampling of cubes, families of operators, a training step.

- ``cube``: panorama to cube and back, as published for UniFuse and BiFuse++ (SciPy's `map_coordinates` on 8-bit pixels,
  a volume of faces, faces one by one; reimplemented here), compared with precomputed coordinates.
- ``profile``: which operators a prediction consists of, plain and prepared for inference.
- ``step``: one step of the recipe: forward and backward pass of the student, teacher, and everything else.

All times are processor time on one thread; what is compared takes turns. Run:
``python benchmarks/students.py cube profile step``.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from mtpano_zoo.labeling.distillation import PublishedTeacherLabels, TeacherLabels
from mtpano_zoo.labeling.teachers import Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.views import CubeViews
from mtpano_zoo.layers import FromCube, ToCube
from mtpano_zoo.models import NETWORKS, prepare_for_inference
from mtpano_zoo.sphere import pixels_of_erp, pixels_of_faces
from mtpano_zoo.training import DistillationModule

Ways = tuple[Callable[[], Tensor], Callable[[], Tensor]]
STUDENTS = {"UniFuse": "resnet18", "BiFuse": "resnet34", "HoHoNet": "resnet50", "EGformer": ""}
FAMILIES = {
    "convolutions": ("conv", "mkldnn"),
    "products": ("mm", "bmm", "addmm", "linear", "baddbmm"),
    "norms": ("norm",),
    "sampling": ("grid_sampler", "index", "gather", "upsample"),
    "activations": ("relu", "elu", "gelu", "sigmoid", "softmax", "cos", "clamp", "threshold"),
    "copies": ("copy", "cat", "clone", "fill", "contiguous", "_to_copy", "constant_pad"),
}


def random(*shape: int) -> Tensor:
    """Return numbers in [0, 1), the same ones every time."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def seconds(function: Callable[[], Any]) -> float:
    """Return the processor time of a call in seconds."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


# --- Sampling of cubes ---------------------------------------------------------------------------------------------


def unifuse_faces(size: int) -> Ways:
    """Sample an 8-bit image to faces: SciPy, one channel at a time, rows padded as published; and `ToCube`."""
    height, width = 2 * size, 4 * size
    image = (random(height, width, 3) * 255).to(torch.uint8).numpy()
    erp = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255  # both networks need it anyway
    column, row = pixels_of_faces(size, height, width, "unifuse").reshape(6 * size, size, 2).numpy().transpose(2, 0, 1)
    sampler = ToCube("unifuse", size, height, width)

    def published() -> Tensor:
        channels = []
        for one in np.moveaxis(image, -1, 0):
            padded = np.concatenate((one, np.roll(one[-1:], width // 2, 1), np.roll(one[:1], width // 2, 1)))
            channels.append(map_coordinates(padded, (row, column), order=1, mode="wrap"))
        faces = np.stack(channels, -1).reshape(6, size, size, 3)
        return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255

    def kept() -> Tensor:
        return sampler(erp).mul(255).round_().div_(255)

    return published, kept


def unifuse_features(size: int, channels: int) -> Ways:
    """Sample features of faces to the panorama: a volume of six faces, sampled in three dimensions; and `FromCube`."""
    height, width = 2 * size, 4 * size
    faces = random(6, channels, size, size)
    face, pixels = pixels_of_erp(height, width, size, "unifuse")
    grid = torch.cat((pixels * 2 / (size - 1) - 1, face[..., None] / 2.5 - 1), dim=-1)[None, None].float()
    sampler = FromCube("unifuse", size, height, width)

    def published() -> Tensor:
        volume = faces.view(1, 6, channels, size, size).transpose(1, 2)
        return F.grid_sample(volume, grid, padding_mode="border", align_corners=True)[:, :, 0]

    return published, lambda: sampler(faces)


def bifuse_faces(size: int, channels: int) -> Ways:
    """Sample a panorama to faces: one grid for each of the six; and `ToCube`."""
    height, width = 2 * size, 4 * size
    erp = random(1, channels, height, width)
    scale = torch.tensor((width - 1, height - 1))
    grids = (pixels_of_faces(size, height, width, "bifuse") * 2 / scale - 1).float()
    sampler = ToCube("bifuse", size, height, width)

    def published() -> Tensor:
        return torch.cat([F.grid_sample(erp, grid[None], padding_mode="border", align_corners=True) for grid in grids])

    return published, lambda: sampler(erp)


def bifuse_features(size: int, channels: int) -> Ways:
    """Sample features of faces to the panorama: filled in face by face, by masks of pixels; and `FromCube`."""
    height, width = 2 * size, 4 * size
    faces = random(6, channels, size, size)
    face, pixels = pixels_of_erp(height, width, size, "bifuse")
    masks = [face == i for i in range(6)]
    places = [(pixels[mask] * 2 / (size - 1) - 1).float()[None, None] for mask in masks]
    sampler = FromCube("bifuse", size, height, width)

    def published() -> Tensor:
        found = torch.zeros(1, channels, height, width)
        for i, (mask, place) in enumerate(zip(masks, places, strict=True)):
            found[:, :, mask] = F.grid_sample(faces[i : i + 1], place, padding_mode="border", align_corners=True)[
                :, :, 0
            ]
        return found

    return published, lambda: sampler(faces)


def cube(height: int, repeats: int) -> None:
    """Print the times of both ways to sample."""
    half = height // 2
    cases = {
        f"UniFuse, image to six faces of {half}": unifuse_faces(half),
        f"UniFuse, 64 features of faces of {half // 4}": unifuse_features(half // 4, 64),
        f"BiFuse++, image to six faces of {half}": bifuse_faces(half, 3),
        f"BiFuse++, 64 features to faces of {half // 4}": bifuse_faces(half // 4, 64),
        f"BiFuse++, 64 features of faces of {half // 4}": bifuse_features(half // 4, 64),
    }
    print("| sampling | published, ms | kept coordinates, ms | published / kept | differ by |\n|---|--:|--:|--:|--:|")
    for name, (published, kept) in cases.items():
        difference = (published() - kept()).abs().flatten()
        rounds = [(seconds(published), seconds(kept)) for _ in range(repeats)]
        first, second = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(one / other for one, other in rounds)
        print(f"| {name} | {first:.1f} | {second:.1f} | {ratio:.1f} | {difference.max():.1e} |", flush=True)


# --- What a prediction consists of ---------------------------------------------------------------------------------


def build(name: str, size: tuple[int, int]) -> nn.Module:
    """Return a student with random weights."""
    options: dict[str, Any] = {"input_size": size}
    if STUDENTS[name]:
        options["encoder"] = STUDENTS[name]
    if name == "HoHoNet":
        options["height"] = size[0]
    return NETWORKS[name](**options).eval()


def family(operator: str) -> str:
    """Return the family of a PyTorch operator."""
    name = operator.removeprefix("aten::")
    return next((kind for kind, parts in FAMILIES.items() if any(part in name for part in parts)), "others")


def profile(height: int, repeats: int) -> None:
    """Print the shares of the families of operators."""
    image = random(1, 3, height, 2 * height)
    print(f"| network | ms | {' | '.join(FAMILIES)} | others |\n|---|--:|{'--:|' * (len(FAMILIES) + 1)}")
    for name in STUDENTS:
        network = build(name, (height, 2 * height))
        for way, one in (("plain", network), ("prepared", prepare_for_inference(network))):
            with torch.inference_mode():
                one(image)
                with torch.autograd.profiler.profile() as found:
                    for _ in range(repeats):
                        one(image)
            shares: Counter[str] = Counter()
            for event in found.key_averages():
                shares[family(event.key)] += event.self_cpu_time_total / 1000 / repeats
            whole = sum(shares.values())
            cells = " | ".join(f"{100 * shares[kind] / whole:.0f} %" for kind in (*FAMILIES, "others"))
            print(f"| {name}, {way} | {whole:.0f} | {cells} |", flush=True)


# --- A step of the recipe ------------------------------------------------------------------------------------------


class Timed(nn.Module, Teacher):
    """Depth Anything (ViT-S) with random weights, at about twice the size of the views; it counts its time."""

    classes: tuple[str, ...] = ()

    def __init__(self, size: int) -> None:
        super().__init__()
        self.provenance = {"name": "timed"}
        self.size = 14 * (2 * size // 14)
        encoder = transformers.Dinov2Config(
            hidden_size=384, num_attention_heads=6, image_size=self.size, patch_size=14, out_indices=[9, 10, 11, 12],
            apply_layernorm=True, reshape_hidden_states=False,
        )  # fmt: skip
        sizes = {"reassemble_hidden_size": 384, "neck_hidden_sizes": [48, 96, 192, 384], "fusion_hidden_size": 64}
        self.network = transformers.DepthAnythingForDepthEstimation(
            transformers.DepthAnythingConfig(backbone_config=encoder, **sizes)
        )
        self.seconds = 0.0

    def forward(self, seen: ViewImages) -> ViewLabels:
        """Label views."""
        begin = time.process_time()
        images = F.interpolate(seen.images, (self.size, self.size), mode="bicubic")
        depth = self.network(images).predicted_depth[:, None]
        depth = F.interpolate(depth, seen.images.shape[-2:], mode="bilinear")[:, 0]
        self.seconds += time.process_time() - begin
        return ViewLabels(depth=depth, depth_kind="disparity")


def step(height: int, repeats: int) -> None:
    """Print the times of student, teacher and everything else, for a step with one panorama of each kind."""
    size = height // 2
    print("| labels | student, s | teacher, s | everything else, s | share |\n|---|--:|--:|--:|--:|")
    for name in ("TeacherLabels", "PublishedTeacherLabels"):
        teacher = Timed(size)
        if name == "TeacherLabels":
            labels = TeacherLabels(teacher, CubeViews(fov=90, size=size, turn=45))
        else:
            labels = PublishedTeacherLabels(teacher, size=size)
        network = build("UniFuse", (height, 2 * height)).train()
        module = DistillationModule(network, labels)
        module.log = module.log_dict = lambda *_, **__: None  # type: ignore[assignment,misc,method-assign]
        optimizer = torch.optim.Adam(network.parameters())
        batch = {"image": random(2, 3, height, 2 * height), "depth": 1 + 5 * random(2, height, 2 * height)}
        rounds = [_timed_step(module, teacher, optimizer, batch | {"id": ["a", "b"]}) for _ in range(repeats + 1)][1:]
        student, asked, rest = (statistics.median(times) for times in zip(*rounds, strict=True))
        print(
            f"| {name} | {student:.2f} | {asked:.2f} | {rest:.3f} | {rest / (student + asked + rest):.1%} |", flush=True
        )


def _timed_step(
    module: DistillationModule, teacher: Timed, optimizer: torch.optim.Optimizer, batch: dict[str, Any]
) -> tuple[float, float, float]:
    """Take a step whose loss ends at the student's output, to separate the student's time from the rest."""
    teacher.seconds = 0.0
    optimizer.zero_grad()
    begin = time.process_time()
    output = module.network(batch["image"])["disparity"]
    forwards = time.process_time() - begin
    leaf = output.detach().requires_grad_()
    module.forward = lambda image: {"disparity": leaf}  # type: ignore[method-assign,misc]
    between = seconds(lambda: module.training_step(batch | {"labelled": 1}, 0).backward())
    backwards = seconds(lambda: (output.backward(leaf.grad), optimizer.step()))
    return forwards + backwards, teacher.seconds, between - teacher.seconds


PARTS = {"cube": cube, "profile": profile, "step": step}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the selected tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for part in options.parts:
        PARTS[part](options.height, options.repeats)


if __name__ == "__main__":
    main()
