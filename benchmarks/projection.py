"""Seconds for cutting 32 perspective views out of one panorama, compared with three other libraries.

Every library gets the input that it is fastest with: a contiguous float32 image in its own layout. Every view has a
different direction, so a cached sampling grid is of no use. The libraries take turns, so that other load on the machine
affects all of them. Run: ``python benchmarks/projection.py --threads 2``.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mtpano_zoo.sphere import rotation_matrix, to_perspective

FOV = 90.0


def contenders(image: Tensor, yaw: Tensor, pitch: Tensor, size: int) -> dict[str, Callable[[], object]]:
    """Return a call per library that cuts all views from an image (3, H, W); angles are in degrees."""
    import equilib
    import py360convert
    import pytorch360convert

    array = image.movedim(0, -1).contiguous().numpy()
    last = image.movedim(0, -1).contiguous()
    angles = list(zip(yaw.tolist(), pitch.tolist(), strict=True))
    radians = [{"yaw": -math.radians(y), "pitch": -math.radians(p), "roll": 0.0} for y, p in angles]
    shape = (size, size)
    kept = image.new_empty(1, len(angles), len(image), size, size)
    return {
        "mtpano_zoo, out=": lambda: to_perspective(
            image[None], rotation_matrix(yaw, pitch), size, size, fov=FOV, out=kept
        ),
        "mtpano_zoo": lambda: to_perspective(image[None], rotation_matrix(yaw, pitch), size, size, fov=FOV),
        "py360convert": lambda: [py360convert.e2p(array, FOV, y, p, shape) for y, p in angles],
        "pyequilib, one by one": lambda: [equilib.equi2pers(image, r, size, size, FOV) for r in radians],
        "pyequilib, batch": lambda: equilib.equi2pers(image.expand(len(radians), -1, -1, -1), radians, size, size, FOV),
        "pytorch360convert": lambda: [pytorch360convert.e2p(image, FOV, y, p, shape) for y, p in angles],
        "pytorch360convert, channels last": lambda: [
            pytorch360convert.e2p(last, FOV, y, p, shape, channels_first=False) for y, p in angles
        ],
    }


def main() -> None:
    """Time all libraries and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and OpenCV")
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a view")
    parser.add_argument("--height", type=int, default=1024, help="rows of the panorama")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    import cv2  # py360convert samples with it

    cv2.setNumThreads(arguments.threads)

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, arguments.height, 2 * arguments.height, generator=generator)
    yaw = torch.rand(arguments.views, generator=generator) * 360 - 180
    pitch = torch.rand(arguments.views, generator=generator) * 180 - 90
    calls = contenders(image, yaw, pitch, arguments.size)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(arguments.repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:  # the first round is a warm-up
                seconds[name].append(time.perf_counter() - start)

    ours = statistics.median(seconds["mtpano_zoo"])
    print(
        f"{arguments.views} views of {arguments.size} x {arguments.size} out of {tuple(image.shape)} float32, ", end=""
    )
    print(f"median of {arguments.repeats}, {arguments.threads} threads, torch {torch.__version__}\n")
    print("| library | seconds | fastest, slowest run | times ours |\n|---|--:|--:|--:|")
    for name, times in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        middle = statistics.median(times)
        print(f"| {name} | {middle:.3f} | {min(times):.3f}, {max(times):.3f} | {middle / ours:.1f} |")


if __name__ == "__main__":
    main()
