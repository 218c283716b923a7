"""Time and memory of `load_model` for a checkpoint of the published size, compared with plain PyTorch.

The output is a Markdown table. The script writes about 5 GB to a temporary folder. The values are random; names, shapes
and types are those of the published file. Every row is measured in fresh processes, on files in the page cache.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from mtpano_zoo.layers import geometry_encoding
from mtpano_zoo.zoo.entries import entries

NAME = "mtpano-large.408k"
SHAPES = Path(__file__).parents[1] / "tests" / "reference" / "golden" / "large_keys.json"
COLUMNS = (
    "way",
    "load, s",
    "read all weights, s",
    "peak, GB",
    "peak / weights",
    "anonymous peak, GB",
    "after reading, GB",
)


def write_checkpoint(path: Path) -> int:
    """Write a file like the published one; return the bytes of its tensors."""
    shapes = json.loads(SHAPES.read_text())
    state = {key: torch.empty(shape).uniform_(-0.02, 0.02) for key, shape in shapes.items()}
    state |= {key: torch.tensor(0) for key in shapes if key.endswith("num_batches_tracked")}
    geometry = geometry_encoding("paper", like=torch.zeros(shapes["RayDir"]))
    state |= {"RayDir": geometry[:, :3].contiguous(), "PE": geometry[:, 3:].contiguous()}
    torch.save({"model": state}, path)
    return sum(tensor.nbytes for tensor in state.values())


def by_name(path: str) -> torch.nn.Module:
    """Load by name, from the cache of the Hub's client; converts on first use."""
    from mtpano_zoo import load_model

    return load_model(NAME)


def by_path(path: str) -> torch.nn.Module:
    """Load the published file by its path; converts in memory."""
    from mtpano_zoo import load_model

    return load_model(path)


def plainly(path: str) -> torch.nn.Module:
    """Build the network, read the whole file and copy, as `torch.load` and `load_state_dict` do by default."""
    from mtpano_zoo.layers import ViTEncoder
    from mtpano_zoo.models import PDBridgeNet
    from mtpano_zoo.reference import FORMATS

    arguments = entries()[NAME].network["init_args"]
    network = PDBridgeNet(**arguments | {"encoder": ViTEncoder(**arguments["encoder"]["init_args"])})
    network.load_state_dict(FORMATS["mtpano"].convert(torch.load(path, weights_only=True)["model"]))
    return network.eval()


def nothing(path: str) -> torch.nn.Module:
    """Only import: the cost of every process."""
    import mtpano_zoo.zoo.loading  # noqa: F401

    return torch.nn.Module()


WAYS: dict[str, Callable[[str], torch.nn.Module]] = {
    "imports alone": nothing,
    "by name, first time (verify, convert, keep)": by_name,
    "by name, from then on": by_name,
    "by path": by_path,
    "torch.load and load_state_dict": plainly,
}


def memory(field: str) -> float:
    """Return a field of this process's status in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024 / 1e9


def measure(way: str, path: str) -> dict[str, float]:
    """Load in this process; return seconds and GB."""
    nothing(path)
    anonymous = [memory("RssAnon")]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            anonymous.append(memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    network = WAYS[way](path)
    loaded = time.perf_counter()
    peak = memory("VmHWM")
    with torch.no_grad():
        total = sum(float(parameter.sum()) for parameter in network.parameters())
    read = time.perf_counter()
    done.set()
    watcher.join()
    assert math.isfinite(total)
    return {"load": loaded - start, "read": read - loaded, "peak": peak, "anonymous": max(anonymous),
            "after": memory("VmHWM")}  # fmt: skip


def place_in_hub_cache(path: Path, cache: Path) -> None:
    """Move the file to where the Hub's client would have downloaded it."""
    entry = entries()[NAME]
    commit = entry.revision or hashlib.sha1(b"benchmark").hexdigest()
    repository = cache / f"models--{entry.repository.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    path.rename(repository / "snapshots" / commit / entry.file)


def main() -> None:
    """Run all ways to load, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        hub, ours = Path(folder) / "hub", Path(folder) / "ours"
        size = write_checkpoint(Path(folder) / "published.pth.tar")
        place_in_hub_cache(Path(folder) / "published.pth.tar", hub)
        (published,) = hub.rglob(entries()[NAME].file)
        environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "MTPANO_CACHE": str(ours)}
        print(f"weights: {size / 1e9:.2f} GB, file: {published.stat().st_size / 1e9:.2f} GB\n")
        print(f"| {' | '.join(COLUMNS)} |\n|---{'|--:' * (len(COLUMNS) - 1)}|")
        for way in WAYS:
            results = []
            for _ in range(options.repeats):
                if "first time" in way:
                    shutil.rmtree(ours, ignore_errors=True)
                command = [sys.executable, __file__, "--measure", way, str(published)]
                run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                results.append(json.loads(run.stdout.splitlines()[-1]))
            middle = {key: median(result[key] for result in results) for key in results[0]}
            numbers = (
                middle["load"],
                middle["read"],
                middle["peak"],
                middle["peak"] * 1e9 / size,
                middle["anonymous"],
                middle["after"],
            )
            print(f"| {way} | {' | '.join(f'{number:.2f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
