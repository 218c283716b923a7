"""Kill `mtpano label` at random moments, restart it until it finishes, and compare with an undisturbed run.

    python benchmarks/label_kill.py --kills 20 --rooms 60

Every process runs the real command line. Every fifth kill comes while the process is starting, the others at a random
time after it has begun to label, early enough that work is left for all of them. After every kill, all panoramas that
count as finished are compared byte by byte.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = """
views: {{class_path: mtpano_zoo.labeling.views.RandomViews, init_args: {{count: 8, size: 96}}}}
data: {{class_path: RoomsDataModule, init_args: {{height: 128, width: 256, train_count: {rooms}}}}}
height: 128
width: 256
num_workers: 1
trainer: {{accelerator: cpu, enable_progress_bar: false}}
"""


def main() -> None:
    """Run the test and print its log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rooms", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options.kills, options.rooms, random.Random(options.seed))


def compare(folder: Path, kills: int, rooms: int, moments: random.Random) -> None:
    """Make both folders and compare them."""
    config = folder / "options.yaml"
    config.write_text(OPTIONS.format(rooms=rooms))
    start = time.monotonic()
    whole = command(config, folder / "whole")
    wait_for_work(whole, folder / "whole", set())
    ready = time.monotonic() - start
    if whole.wait() != 0:
        raise SystemExit("the undisturbed run failed")
    total = time.monotonic() - start
    expected = files_of(folder / "whole")
    print(f"undisturbed: {total:.1f} s for {rooms} rooms, {ready:.1f} s of them before the first begins")
    print(
        "kill   at s   labelling for s   finished before   finished after   temporary files left   finished ones differ"
    )
    out = folder / "killed"
    for number in range(1, kills + 1):
        before, old = len(list(out.glob("img/*.jpg"))), set(out.glob(".*"))
        start = time.monotonic()
        process = command(config, out)
        begun = None
        if number % 5 == 0:
            time.sleep(moments.uniform(0, ready))
        else:
            wait_for_work(process, out, old)
            begun = time.monotonic()
            time.sleep(moments.uniform(0, 2 * (total - ready) / kills))
        process.send_signal(signal.SIGKILL)
        moment = time.monotonic() - start
        work = "starting" if begun is None else f"{time.monotonic() - begun:.2f}"
        process.wait()
        finished = {path.stem for path in out.glob("img/*.jpg")}
        found = files_of(out)
        differing = sum(
            found.get(path) != data for path, data in expected.items() if Path(path).parts[1:] and of(path) in finished
        )
        left = sum(path.is_file() for rest in out.glob(".*") for path in rest.rglob("*"))
        print(
            f"{number:4} {moment:6.2f} {work:>17} {before:17} {len(finished):16} {left:22} {differing:22}", flush=True
        )
    if command(config, out).wait() != 0:
        raise SystemExit("the last run failed")
    found = files_of(out)
    print(f"last run: {len(list(out.glob('img/*.jpg')))} finished, {len(list(out.glob('.*')))} temporary folders left")
    same = found == expected
    print(f"{len(found)} files, {sum(map(len, found.values()))} bytes: {'the same' if same else 'NOT THE SAME'}")
    if not same or list(out.glob(".*")):
        raise SystemExit(1)


def command(config: Path, out: Path) -> "subprocess.Popen[bytes]":
    """Start the command line."""
    arguments = ["--config", "label_free/label-oracle-rooms.yaml", "--config", str(config), "--out", str(out)]
    return subprocess.Popen([sys.executable, "-m", "mtpano_zoo.cli", "label", *arguments], stdout=subprocess.DEVNULL)


def wait_for_work(process: "subprocess.Popen[bytes]", out: Path, old: set[Path]) -> None:
    """Wait until a process has its own temporary folder, which means that it begins to label."""
    while process.poll() is None and not (set(out.glob(".*/lock")) - {folder / "lock" for folder in old}):
        time.sleep(0.005)


def of(path: str) -> str:
    """Return the name of the panorama that a file belongs to."""
    parts = Path(path).parts
    return Path(parts[1]).stem if parts[0] in ("img", "origins") else parts[1]


def files_of(root: Path) -> dict[str, bytes]:
    """Return the contents of all files except the records of runs, by path."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.relative_to(root).parts[0].startswith(".")]
    return {str(p.relative_to(root)): p.read_bytes() for p in paths if p.relative_to(root).parts[0] != "runs"}


if __name__ == "__main__":
    main()
