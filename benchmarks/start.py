"""Processor time of short commands, each in its own process with one thread: python benchmarks/start.py.

Besides running the network, a command imports, reads, enlarges, draws and writes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

COMMAND = "import sys; from mtpano_zoo.cli import main; sys.exit(main(sys.argv[1:]))"
RUN = ["run", "--workers", "0", "--overwrite", "--force"]  # the default network
NETWORK = """import torch
from mtpano_zoo import load_model
from mtpano_zoo.models import prepare_for_inference
from mtpano_zoo.resources import DEFAULT_MODEL
network = prepare_for_inference(load_model(DEFAULT_MODEL))
with torch.inference_mode():
    for _ in range({times}):
        network(torch.zeros(1, 3, *network.input_size))
"""
PROGRAMS: dict[str, list[str]] = {
    "python": ["-c", ""],
    "import torch": ["-c", "import torch"],
    "from mtpano_zoo import load_model": ["-c", "from mtpano_zoo import load_model"],
    "load_model(tiny)": ["-c", "from mtpano_zoo import load_model; load_model('mtpano-tiny.rooms')"],
    "the default network, prepared": ["-c", NETWORK.format(times=0)],
    "the default network, run once": ["-c", NETWORK.format(times=1)],
    "mtpano --help": ["-c", COMMAND, "--help"],
    "mtpano models": ["-c", COMMAND, "models"],
    "mtpano run, one photograph": ["-c", COMMAND, *RUN, "photo.jpg"],
    "mtpano run, no panel": ["-c", COMMAND, *RUN, "--no-panel", "photo.jpg"],
    "mtpano export, ONNX": ["-c", COMMAND, "export", "mtpano-tiny.rooms", "--format", "onnx", "--out", "tiny.onnx"],
}


def processor_time(arguments: list[str], folder: str) -> tuple[float, float]:
    """Return the processor time in seconds and the peak memory in GiB of a Python program."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} ended with status {child.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--height", type=int, default=1024, help="rows of the photograph")
    parser.add_argument("--repeats", type=int, default=1, help="runs, of which the fastest counts")
    parser.add_argument("--programs", nargs="+", choices=tuple(PROGRAMS), default=list(PROGRAMS), metavar="NAME")
    arguments = parser.parse_args()
    print("| command | processor time, s | peak memory, GiB |\n|---|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        coarse = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
        size = (2 * arguments.height, arguments.height)
        cv2.imwrite(str(Path(folder) / "photo.jpg"), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
        for name in arguments.programs:
            (Path(folder) / "tiny.onnx").unlink(missing_ok=True)
            seconds, memory = min(processor_time(PROGRAMS[name], folder) for _ in range(arguments.repeats))
            print(f"| {name} | {seconds:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
