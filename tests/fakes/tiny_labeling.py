"""Tiny labelling: rooms or grey panoramas, teachers that need no weights, and the configurations that name them."""

import contextlib
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from waiting import until

from mtpano_zoo.labeling.teachers.base import Teacher, ViewImages, ViewLabels

HEIGHT, WIDTH, ROOMS = 32, 64, 8
TINY = {
    "views": {"class_path": "mtpano_zoo.labeling.views.RandomViews", "init_args": {"count": 5, "size": 32}},
    "teachers": [
        {
            "class_path": "mtpano_zoo.labeling.teachers.oracle.OracleTeacher",
            "init_args": {"scale": 0.2, "noise": 0.05, "wrong_classes": 0.1},
        }
    ],
    "data": {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": ROOMS}},
    "split": "train",
    "height": HEIGHT,
    "width": WIDTH,
    "num_workers": 0,
    "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
}


class Grey(Teacher):
    """A teacher that needs no truth: distance follows from the brightness. Black panoramas are too much for it."""

    classes = ("dark", "bright")
    provenance = {"name": "grey"}  # noqa: RUF012

    def __init__(self, farthest: float = 2, dies: bool = False) -> None:
        self.farthest, self.dies = farthest, dies

    def __call__(self, seen: ViewImages) -> ViewLabels:
        grey = seen.images.mean(1)
        if not grey.any():
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("it is too dark\nto see anything")
        return ViewLabels(probabilities=torch.stack([1 - grey, grey], 1), depth=1 + (self.farthest - 1) * grey)


class Meets(Grey):
    """Notes who labels what; the first labels of each process, `rounds` of them, wait for those of the others.

    The first that sees black is killed.
    """

    def __init__(self, log: str, processes: int = 1, rounds: int = 1) -> None:
        super().__init__()
        self.log = Path(log)
        self.processes = processes
        self.rounds = rounds

    def __call__(self, seen: ViewImages) -> ViewLabels:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {seen.sample['id']}\n")
        due = min(self.counts()[str(os.getpid())], self.rounds)
        until(lambda: sum(count >= due for count in self.counts().values()) >= self.processes)
        if not seen.images.any():
            with contextlib.suppress(FileExistsError):
                self.log.with_suffix(".killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(replace(seen, images=seen.images + 0.1))
        return super().__call__(seen)

    def counts(self) -> Counter[str]:
        """Return how many panoramas each process has begun."""
        return Counter(line.split()[0] for line in self.log.read_text().splitlines())


def config(path, **changes):
    path.write_text(yaml.safe_dump({key: value for key, value in (TINY | changes).items() if value is not None}))
    return str(path)


def grey(**options):
    """The changes for panoramas in files and a teacher that needs no truth; it is named as a user names his own."""
    return {"data": None, "split": None, "teachers": [{"class_path": "tiny_labeling.Grey", "init_args": options}]}


def labels_of(root):
    """All files but the records of runs, by their paths."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name != "runs"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}
