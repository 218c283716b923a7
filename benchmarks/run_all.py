"""Run the benchmarks that show where time goes, and keep their tables: `make benchmarks`, `make benchmarks-gpu`.

Every benchmark is a script of this folder in its own process. The tables go to
``benchmarks/results/<date>-<machine>.json`` and, as Markdown, between two marks in ``benchmarks/README.md``; all are
printed again at the end. A machine is named by its processor and cores, or its GPU, never by its host name. Benchmarks
for which no time is left are skipped and listed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mtpano_zoo.machine.cores import available_cores

HERE = Path(__file__).parent
# Title, script with arguments, and the arguments that make it tiny. The most informative ones come first.
Benchmark = tuple[str, str, str]
CPU: list[Benchmark] = [
    ("First second", "start.py", "--programs python 'import torch' --height 32"),
    ("Loss", "losses.py --repeats 1", "--height 16 --classes 3 --repeats 1 --parts distance"),
    ("Kernels by family", "kernels.py", "--height 32 --classes 3 --calls inference"),
    ("Prepared networks", "prepared.py --repeats 3", "--height 64 --repeats 1 --networks mtpano-small.rooms"),
    ("Large network", "inference.py --threads 1 --height 256 --repeats 1 --ways plain prepared", "--small --height 32"),
    ("Labelling", "labeling.py speed --threads 1 --repeats 2 --no-plain", "--classes 4 --repeats 1"),
    ("Rendering", "rendering.py --repeats 1 --heights 128 512", "--heights 16"),
    ("Folders", "run_folder.py --count 16 --height 256 --workers 0 1", "--count 2 --height 32 --workers 0"),
    ("Parts of the large network", "limits.py --count-only", "--small --height 32"),
]
GPU: list[Benchmark] = [
    (
        "Inference",
        "inference.py --batches 1 8 --repeats 10 --ways plain 'plain, tf32' 'plain, bf16 autocast' 'prepared, bf16' "
        "'graphs, bf16'",
        "--small --height 32 --batches 1 --repeats 1 --ways plain",
    ),
    (
        "Training",
        "training.py --ways float32 tf32 bf16 'bf16, checkpointing'",
        "--small --height 32 --batch 1 --steps 1 --ways bf16",
    ),
    ("Loss", "losses.py --batch 4 --repeats 10", "--batch 1 --height 16 --classes 3 --repeats 1 --parts distance"),
    (
        "Kernels by family, batch 4",
        "kernels.py --batch 4 --height 512",
        "--batch 1 --height 32 --classes 3 --calls inference",
    ),
    ("Kernels by family, batch 1", "kernels.py --height 512 --calls inference", "--height 32 --classes 3"),
    (
        "Folders",
        "run_folder.py --large --count 200 --batch-size 8 --workers 14 --no-panel",
        "--count 2 --height 32 --photo-height 32 --batch-size 1 --workers 0",
    ),
    ("Rendering", "rendering.py --repeats 1 --gpu-only", "--heights 16"),
    ("Labelling", "labeling.py share", "--teacher test_vit --panorama 16 --classes 3 --repeats 1"),
    (
        "Compiled, batch 1",
        "inference.py --repeats 10 --ways 'plain, bf16 autocast' 'graphs, compiled, bf16'",
        "--small --height 32 --repeats 1 --ways plain",
    ),
]


def machine(kind: str) -> str:
    """Return the processor and the number of usable cores, or the GPU and how many there are."""
    if kind == "gpu" and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine
    )
    return f"{model}, {available_cores()} cores"


def tables_in(output: str) -> list[list[str]]:
    """Return the Markdown tables of an output as lists of lines; the first is the text before the table, if any."""
    tables: list[list[str]] = []
    before = ""
    inside = False
    for line in output.splitlines():
        if line.startswith("|"):
            if not inside:
                tables.append([before])
            tables[-1].append(line)
        elif line.strip():
            before = line.strip()
        inside = line.startswith("|")
    return tables


def measured(benchmark: Benchmark, tiny: bool, limit: float) -> dict[str, Any]:
    """Run a script; return its command, seconds and tables, and its error if there was one."""
    title, command, smaller = benchmark
    words = split(f"{command} {smaller}" if tiny else command)
    start = time.monotonic()
    entry: dict[str, Any] = {"title": title, "command": f"python benchmarks/{' '.join(map(quoted, words))}"}
    output, error = run_script(words, limit)
    tables = tables_in(output)
    rows = [
        {"text": text, "columns": cells(lines[0]), "rows": [cells(line) for line in lines[2:]]}
        for text, *lines in tables
    ]
    entry |= {"seconds": round(time.monotonic() - start, 1), "tables": rows, "markdown": tables}
    return entry | ({"error": error} if error else {})


def run_script(words: Sequence[str], limit: float) -> tuple[str, str | None]:
    """Run a script of this folder with its arguments; return its output, and its error if there was one."""
    command = [sys.executable, str(HERE / words[0]), *words[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as expired:
        return (expired.stdout or b"").decode(), f"stopped after {limit:.0f} s"
    return done.stdout, f"status {done.returncode}: {done.stderr[-600:]}" if done.returncode else None


def split(command: str) -> list[str]:
    """Split a command into words; quotes keep words with spaces together."""
    return [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]


def quoted(word: str) -> str:
    """Quote a word for a shell."""
    return f"'{word}'" if " " in word else word


def cells(line: str) -> list[str]:
    """Return the cells of a table row."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def as_markdown(report: dict[str, Any]) -> str:
    """Return a report as Markdown for the README."""
    parts = [f"{report['date']}, {report['machine']}, torch {report['torch']}, {report['seconds']:.0f} s in all."]
    for entry in report["benchmarks"]:
        parts.append(f"**{entry['title']}**: `{entry['command']}`, {entry['seconds']:.0f} s")
        for text, *lines in entry["markdown"]:
            parts.append("\n\n".join(filter(None, (text, "\n".join(lines)))))
        if "error" in entry:
            parts.append(f"Not finished: {entry['error'].splitlines()[0]}")
    return "\n\n".join(parts)


def insert(readme: Path, kind: str, text: str) -> None:
    """Replace the text between the two marks of a kind."""
    begin, end = f"<!-- {kind} begins -->", f"<!-- {kind} ends -->"
    old = readme.read_text()
    head, found, rest = old.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{readme} lacks the marks {begin} and {end}: put them where the tables should be.")
    unfinished = readme.with_suffix(".unfinished")
    unfinished.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}")
    unfinished.replace(readme)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all benchmarks of a kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("cpu", "gpu"))
    parser.add_argument("--minutes", type=float, help="default: 19 on a CPU, 7.5 on a GPU")
    parser.add_argument("--tiny", action="store_true", help="use the smallest sizes, as a quick test")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    options = parser.parse_args(argv)
    if options.kind == "gpu" and not options.tiny and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU: use `make benchmarks`.")
    seconds = 60 * (options.minutes or (19 if options.kind == "cpu" else 7.5))
    name, start = machine(options.kind), time.monotonic()
    report: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": name,
        "torch": torch.__version__,
        "benchmarks": [],
    }
    for benchmark in CPU if options.kind == "cpu" else GPU:
        left = seconds - (time.monotonic() - start)
        print(f"{benchmark[0]} ...", file=sys.stderr, flush=True)
        if left < 10:
            left_out = {"title": benchmark[0], "command": benchmark[1], "seconds": 0.0, "tables": [], "markdown": []}
            report["benchmarks"].append(left_out | {"error": "no time was left"})
            continue
        report["benchmarks"].append(measured(benchmark, options.tiny, left))
    report["seconds"] = time.monotonic() - start
    text = as_markdown(report)
    for entry in report["benchmarks"]:
        del entry["markdown"]
    options.results.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = options.results / f"{report['date']}-{slug}.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(report, indent=1) + "\n")
    unfinished.replace(path)
    insert(options.readme, options.kind, text)
    print(text)
    if any("status" in entry.get("error", "") for entry in report["benchmarks"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
