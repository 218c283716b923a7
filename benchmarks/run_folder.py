"""Speed of `mtpano run` on a folder of panoramas, compared with the same network without reading and writing.

The folder holds JPEG files; the network is small and has random weights. "bare" runs it on an image in memory and keeps
no results. Run: ``python benchmarks/run_folder.py --threads 1 --workers 1`` on two cores, or with
``--workers 15 --batch-size 4`` on a GPU.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from inference import LARGE_ENCODER, SMALL, random_network

from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.models import PDBridgeNet, prepare_for_inference
from mtpano_zoo.run import run


def write_photos(folder: Path, count: int, height: int) -> None:
    """Write smooth random pictures with some noise."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (16, 32, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (2 * height, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(
            str(folder / f"{i:04d}.jpg"), cv2.add(picture, random.integers(0, 8, picture.shape, dtype=np.uint8))
        )


def main() -> None:
    """Measure both and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=200, help="panoramas in the folder")
    parser.add_argument("--height", type=int, default=512, help="rows of the network's input")
    parser.add_argument("--photo-height", type=int, default=512, help="rows of the files")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder")
    parser.add_argument("--width", type=int, default=384, help="width of the encoder")
    parser.add_argument("--large", action="store_true", help="use the published large network, in bf16 on a GPU")
    parser.add_argument("--no-panel", action="store_true", help="write maps only")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = ViTEncoder(**LARGE_ENCODER | {"depth": arguments.depth, "width": arguments.width, "heads": 6})
    size = (arguments.height, 2 * arguments.height)
    names = [f"class {i}" for i in range(arguments.classes)]
    if arguments.large:
        large = random_network(arguments.height, small=device == "cpu").to(device)
        network = prepare_for_inference(large, "bfloat16" if device == "cuda" else "float32")
    else:
        network = prepare_for_inference(PDBridgeNet(encoder, names, input_size=size, **SMALL).to(device))
    image = torch.rand(arguments.batch_size, 3, *size, device=device)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        photos.mkdir()
        write_photos(photos, arguments.count, arguments.photo_height)
        for repeat in range(arguments.repeats):
            start = time.perf_counter()
            with torch.inference_mode():
                for _ in range(arguments.count // arguments.batch_size):
                    network(image)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.setdefault("bare", []).append(time.perf_counter() - start)
            for workers in arguments.workers:
                start = time.perf_counter()
                out = Path(temporary) / f"out{repeat}.{workers}"
                options = {"batch_size": arguments.batch_size, "workers": workers, "panel": not arguments.no_panel}
                options |= {"force": True}  # the edges of noise do not meet at the seam
                report = run([photos], network, out, progress=False, **options)
                assert len(report.written) == arguments.count, report.summary()
                seconds.setdefault(f"run, {workers} processes", []).append(time.perf_counter() - start)
    print(f"{arguments.count} files of {arguments.photo_height} rows, network {size}, {device}, ", end="")
    print(f"batches of {arguments.batch_size}, {arguments.threads} threads\n")
    print("| way | images/s | of bare |\n|---|--:|--:|")
    bare = statistics.median(seconds["bare"])
    for name, times in seconds.items():
        print(f"| {name} | {arguments.count / statistics.median(times):.2f} | {bare / statistics.median(times):.0%} |")


if __name__ == "__main__":
    main()
