"""`mtpano label`: folders of panoramas in, folders of labels out, whatever happens in between."""

import contextlib
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule, RoomsDataset
from mtpano_zoo.labeling.module import Labeler
from mtpano_zoo.labeling.run import label
from mtpano_zoo.labeling.storage import LabelFolder
from mtpano_zoo.labeling.teachers.base import Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import RandomViews

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
    """Notes who labels what, and begins once so many processes have begun; the first that sees black is killed."""

    def __init__(self, log: str, processes: int = 1) -> None:
        super().__init__()
        self.log, self.processes = Path(log), processes

    def __call__(self, seen: ViewImages) -> ViewLabels:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {seen.sample['id']}\n")
        until(lambda: len({line.split()[0] for line in self.log.read_text().splitlines()}) >= self.processes)
        time.sleep(0.05)
        if not seen.images.any():
            with contextlib.suppress(FileExistsError):
                self.log.with_suffix(".killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(replace(seen, images=seen.images + 0.1))
        return super().__call__(seen)


class Overflows(OracleTeacher):
    """Is not finite in one of its views, or in many."""

    def __init__(self, key: str, value: str, views: int = 1) -> None:
        super().__init__()
        self.key, self.value, self.views = key, float(value), views

    def __call__(self, seen: ViewImages) -> ViewLabels:
        labels = super().__call__(seen)
        labels = replace(labels, confidence=torch.ones_like(labels.depth))
        getattr(labels, self.key)[: self.views] = self.value
        return labels


def config(path, **changes):
    path.write_text(yaml.safe_dump({key: value for key, value in (TINY | changes).items() if value is not None}))
    return str(path)


def grey(**options):
    """The changes for panoramas in files and a teacher that needs no truth; it is named as a user names his own."""
    return {"data": None, "split": None, "teachers": [{"class_path": f"{__name__}.Grey", "init_args": options}]}


def labels_of(root):
    """All files but the records of runs, by their paths."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name != "runs"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The labels of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["label", "--config", config(folder / "tiny.yaml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        shades = np.random.default_rng(number).integers(60, 200, (4, 8, 3), np.uint8)
        Image.fromarray(shades).resize((WIDTH * 2, HEIGHT * 2), Image.Resampling.BICUBIC).save(
            folder / f"p{number}.png"
        )
    return folder


def test_what_is_written_is_what_was_fused(whole):
    """By way of the module that trains on it."""
    data = PseudoLabelDataModule(whole, height=HEIGHT, width=WIDTH)
    samples = data.dataset("train")
    rooms = RoomsDataset("train", ROOMS, HEIGHT, WIDTH)
    assert [samples[i]["id"] for i in range(len(samples))] == [rooms[i]["id"] for i in range(ROOMS)]
    assert tuple(data.classes) == tuple(rooms.classes)
    teacher = OracleTeacher(scale=0.2, noise=0.05, wrong_classes=0.1)
    labeler = Labeler(RandomViews(count=5, size=32), [teacher], height=HEIGHT, width=WIDTH)
    for number in (0, 5):
        sample, fused = samples[number], labeler.label(rooms[number]["id"], rooms[number])
        assert torch.equal(sample["semseg"], fused.semseg.long())
        assert (sample["depth"] - fused.depth).abs().max() <= 0.00051
        assert ((sample["depth"] == 0) == (fused.depth == 0)).all()
        cosine = (sample["normals"] * fused.normals).sum(0)
        assert cosine[(fused.normals != 0).any(0)].min() > np.cos(np.radians(0.5))
        for task, confidence in fused.confidence.items():
            key = "confidence" if task == "semseg" else f"{task}_confidence"
            assert (sample[key] - confidence).abs().max() <= 0.5001 / 255
        assert (sample["image"] - rooms[number]["image"]).abs().mean() < 0.03
    views = PseudoLabelDataModule(whole, height=HEIGHT, width=WIDTH, view_tasks=["depth"], batch_size=2)
    assert next(iter(views.train_dataloader()))["depth"].any()


def test_data_verify_finds_nothing(whole, capsys):
    options = ["--data", "PseudoLabelDataModule", "--root", str(whole), f"height={HEIGHT}", f"width={WIDTH}"]
    assert main(["data", "verify", *options, "--split", "train", "--workers", "0"]) == 0, capsys.readouterr().out


def test_manifest_and_record(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["settings"]["views"]["init_args"] == {
        "count": 5,
        "size": 32,
        "fov": [80, 120],
        "coverage": None,
        "seed": 0,
    }
    (teacher,) = manifest["settings"]["teachers"]
    assert teacher["provenance"]["name"] == "oracle"
    assert teacher["init_args"]["scale"] == 0.2
    assert manifest["classes"] == list(RoomsDataset.classes)
    (record,) = [json.loads(path.read_text()) for path in (whole / "runs").iterdir()]
    assert record["counts"] == {"labelled": ROOMS, "skipped": 0, "failed": 0}
    assert record["metric_depth"] is True
    assert record["software"]["torch"] == torch.__version__.split("+")[0]


def test_nothing_temporary_is_left(whole):
    assert {path.name for path in whole.iterdir()} == {
        *("manifest.json", "classes.yaml", "img", "semseg", "depth", "normals", "origins", "db_info", "runs")
    }


def test_a_second_run_skips_everything(whole, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.*g")}
    assert main(["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(whole)]) == 0
    assert capsys.readouterr().out == f"0 labelled, {ROOMS} skipped because they were labelled already\n"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.*g")} == before


def test_a_second_run_on_files_skips_everything(photos, tmp_path, capsys):
    """Their names are known before they are read, so that nothing is left to do."""
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main(arguments) == 0
    before = labels_of(out)
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == "0 labelled, 5 skipped because they were labelled already\n"
    assert labels_of(out) == before
    assert not list(out.glob(".*"))
    assert len(list((out / "runs").iterdir())) == 2


def test_other_settings_are_refused(whole, tmp_path, capsys):
    path = config(tmp_path / "tiny.yaml")
    for option in ("--views.init_args.count=4", "--teachers.init_args.scale=0.1", "--keep_views=false"):
        before = labels_of(whole)
        assert main(["label", "--config", path, "--out", str(whole), option]) == 1
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert "was labelled with other settings" in sentence
        assert labels_of(whole) == before


def test_overwriting(photos, tmp_path):
    out = tmp_path / "out"
    path = config(tmp_path / "tiny.yaml", **grey())
    assert main(["label", str(photos), "--config", path, "--out", str(out)]) == 0
    first = labels_of(out)
    assert (
        main(["label", str(photos / "p0.png"), "--config", path, "--out", str(out), "--height=16", "--width=32"]) == 1
    )
    options = ["--overwrite", "--keep_views=false"]
    assert main(["label", str(photos), "--config", path, "--out", str(out), *options]) == 0
    second = labels_of(out)
    assert {name for name in first if "label_" not in name} == set(second)
    assert first["depth/p0/merged.png"] == second["depth/p0/merged.png"]
    assert len(list((out / "runs").iterdir())) == 2


def test_files_and_what_cannot_be_labelled(photos, tmp_path, capsys):
    """An unreadable file, a teacher that fails on one panorama: told, the rest is done, and done later."""
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "night.png")
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main([*arguments, "--num_workers=1"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("5 labelled (")
    assert told[0].endswith("), 2 failed")
    assert sorted(told[1:])[0].startswith(f"  broken: {photos / 'broken.jpg'} is truncated or not an image")
    assert sorted(told[1:])[1:] == ["  night: RuntimeError: it is too dark"]
    assert json.loads((out / "db_info" / "panomtdu_train.json").read_text()) == [f"p{i}" for i in range(5)]
    (record,) = (json.loads(path.read_text()) for path in (out / "runs").iterdir())
    assert record["failed"].keys() == {"broken", "night"}
    for name in ("broken.jpg", "night.png"):
        Image.new("RGB", (WIDTH, HEIGHT), "white").save(photos / name)
    assert main([*arguments, "--listed_as=val"]) == 0
    assert capsys.readouterr().out.startswith("2 labelled")
    stored = np.asarray(Image.open(out / "img" / "p3.jpg"))
    assert stored.shape == (HEIGHT, WIDTH, 3)


def test_distances_that_do_not_fit(photos, tmp_path, capsys):
    path = config(tmp_path / "tiny.yaml", **grey(farthest=131.0))
    assert main(["label", str(photos / "p0.png"), "--config", path, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out.splitlines()[1]
    stored = np.asarray(Image.open(tmp_path / "out" / "depth" / "p0" / "merged.png"))
    assert stored.max() > 60000
    assert told.endswith("pixels of 1 panoramas are beyond 65.535 m: no depth label")
    assert 0 < int(told.split()[0]) <= (stored == 0).sum()


def test_names_that_are_no_text_and_names_that_the_disk_does_not_take(photos, tmp_path, capsys, monkeypatch):
    """Some encrypted file systems take 143 bytes only, which nobody knows before."""
    (photos / "p0.png").rename(photos / os.fsdecode(b"\xff.png"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / os.fsdecode(b"night\xff.png"))
    (photos / "p1.png").rename(photos / f"{'x' * 200}.png")
    original = Path.rename

    def rename(path, target):
        if len(target.name) > 143:
            raise OSError(errno.ENAMETOOLONG, "File name too long", str(target))
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main(arguments) == 1
    told = capsys.readouterr().out.encode().decode().splitlines()
    assert told[0].startswith("4 labelled") and told[0].endswith("2 failed")
    assert any(line.startswith("  'night\\udcff': RuntimeError: it is too dark") for line in told)
    assert any("File name too long" in line for line in told)
    assert (out / "img" / os.fsdecode(b"\xff.jpg")).exists()
    samples = PseudoLabelDataModule(out, height=HEIGHT, width=WIDTH).dataset("train")
    assert sorted(sample["id"] for sample in samples) == ["p2", "p3", "p4", "\udcff"]


@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_ends_the_run(after, tmp_path, whole, capsys, monkeypatch):
    """In one sentence, with what is finished; the next run makes it whole."""
    written = []
    write = LabelFolder.write

    def full(self, name, *arguments):
        if len(written) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(name)
        return write(self, name, *arguments)

    out = tmp_path / "out"
    arguments = ["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(LabelFolder, "write", full)
        assert main([*arguments, "--writers=1"]) == 1
    told = capsys.readouterr().out.strip().splitlines()
    assert told[0].startswith(f"{after} labelled")
    assert told[1].startswith(f"{out} cannot be written to: no space is left on the disk; what is finished is kept")
    assert len(told) == 2
    assert {path.stem for path in (out / "img").iterdir()} == set(written)
    assert not list(out.glob(".*"))
    assert main(arguments) == 0
    assert labels_of(out) == labels_of(whole)


def test_from_python(tmp_path, whole):
    """Without the command line, panoramas in another order: the same files. Of a subset the pixels are the origin."""
    rooms = RoomsDataset("train", ROOMS, HEIGHT, WIDTH)
    backwards = torch.utils.data.Subset(rooms, list(reversed(range(ROOMS))))
    teacher = OracleTeacher(scale=0.2, noise=0.05, wrong_classes=0.1)
    labeler = Labeler(RandomViews(count=5, size=32), [teacher], height=HEIGHT, width=WIDTH)
    report = label(backwards, tmp_path / "out", labeler, settings={"of": "mine"}, trainer=TINY["trainer"], writers=3)
    assert sorted(report.labelled) == [f"train-{i:06d}" for i in range(ROOMS)]
    mine, theirs = (
        {key: data for key, data in labels_of(root).items() if not key.startswith(("manifest.json", "origins/"))}
        for root in (tmp_path / "out", whole)
    )
    assert mine == theirs


def test_two_panoramas_of_one_id(tmp_path):
    rooms = RoomsDataset("train", 2, HEIGHT, WIDTH)
    twice = torch.utils.data.ConcatDataset([rooms, rooms])
    labeler = Labeler(RandomViews(count=5, size=32), [OracleTeacher()], height=HEIGHT, width=WIDTH)
    report = label(twice, tmp_path / "out", labeler, settings={}, trainer=TINY["trainer"])
    assert len(report.labelled) == 2
    assert report.failed.keys() == {"train-000000", "train-000001"}
    assert report.exit_code == 1


BAD = [".", "..", "x" * 300, "a\\b", "dot.", "../x", "../labels/depth/good", "/abs/x", "img/.."]


class Named(torch.utils.data.Dataset):
    """Rooms under these names."""

    def __init__(self, names, known=True):
        self.names, self.rooms = names, RoomsDataset("train", len(names), HEIGHT, WIDTH)
        if known:
            self.name = lambda i: names[i]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        return self.rooms[i] | {"id": self.names[i]}


@pytest.mark.parametrize("known", [True, False])
def test_ids_that_lead_elsewhere(known, tmp_path):
    """They fail alone; what is finished, and what lies around the folder, stays as it is."""
    out = tmp_path / "labels"
    labeler = Labeler(RandomViews(count=5, size=32), [OracleTeacher()], height=HEIGHT, width=WIDTH)
    options = {"settings": {}, "trainer": TINY["trainer"]}
    assert label(Named(["good"]), out, labeler, **options).exit_code == 0
    before = labels_of(tmp_path)
    report = label(Named([*BAD, "other"], known), out, labeler, **options)
    assert report.exit_code == 1
    assert report.labelled == ["other"] and not report.skipped
    assert len(report.failed) == len(BAD) and all(line.startswith("The id ") for line in report.failed.values())
    after = labels_of(tmp_path)
    assert json.loads(after.pop("labels/db_info/panomtdu_train.json")) == ["good", "other"]
    assert {name: data for name, data in after.items() if "other" not in name} == {
        name: data for name, data in before.items() if "db_info" not in name
    }


@pytest.mark.parametrize("bad", [".", "..", "x" * 300])
def test_names_in_a_table(bad, photos, tmp_path, capsys):
    out, path = tmp_path / "labels", tmp_path / "tiny.yaml"
    options = {"root": str(photos), "table": "table.csv", "height": HEIGHT, "width": WIDTH}
    data = {"class_path": "FolderDataModule", "init_args": options}
    arguments = ["label", "--config", config(path, **grey() | {"data": data, "split": "predict"}), "--out", str(out)]
    (photos / "table.csv").write_text("image,name\np0.png,good\n")
    assert main(arguments) == 0
    before = labels_of(out / "depth")
    capsys.readouterr()
    (photos / "table.csv").write_text(f"image,name\np0.png,good\np1.png,{bad}\np2.png,other\n")
    assert main(arguments) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("1 labelled") and told[0].endswith(
        "1 skipped because they were labelled already, 1 failed"
    )
    assert ": The id " in told[1] and len(told) == 2
    assert before.items() < labels_of(out / "depth").items()


def test_ids_of_generated_panoramas(photos, tmp_path, capsys):
    """The name of the file `..png` without its extension is a dot, of `...png` two, which mean folders."""
    for i, name in enumerate(("..png", "...png")):
        (photos / f"p{i}.png").rename(photos / name)
    names = ["p2.png", "..png", "...png", "p3.png"]
    (photos / "prompts.jsonl").write_text("\n".join(json.dumps({"image": name, "caption": ""}) for name in names))
    options = {"root": str(photos), "height": HEIGHT, "width": WIDTH}
    data = {"class_path": "GeneratedDataModule", "init_args": options}
    path = config(tmp_path / "tiny.yaml", **grey() | {"data": data, "split": "train"})
    assert main(["label", "--config", path, "--out", str(tmp_path / "labels")]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("2 labelled") and sorted(line[:12] for line in told[1:]) == [
        "  ..: The id",
        "  .: The id ",
    ]
    assert {path.stem for path in (tmp_path / "labels" / "img").iterdir()} == {"p2", "p3"}
    arguments = ["label", str(photos / "..png"), "--config", config(tmp_path / "b.yaml", **grey())]
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 1
    assert "  .: The id '.' cannot name a file" in capsys.readouterr().out


def test_another_image_of_the_same_name(photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main(arguments) == 0
    before = labels_of(out)
    (photos / "p3.png").write_bytes((photos / "p1.png").read_bytes())
    assert main([*arguments, "--num_workers=1"]) == 1
    told = capsys.readouterr().out.splitlines()[1:]
    assert told[0] == "0 labelled, 4 skipped because they were labelled already, 1 failed"
    assert told[1].startswith("  p3: its labels were made from another image") and "--overwrite" in told[1]
    assert labels_of(out) == before
    assert main([*arguments, "--overwrite"]) == 0
    assert "1 were labelled again" in capsys.readouterr().out
    after, whole = labels_of(out), tmp_path / "whole"
    assert main(["label", str(photos), *arguments[2:-1], str(whole)]) == 0
    assert after == labels_of(whole)
    assert {name for name in before if before[name] != after[name]} >= {"img/p3.jpg", "depth/p3/merged.png"}
    assert all("p3" in name for name in before if before[name] != after[name])


def test_a_link_in_the_folder(photos, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main(arguments) == 0
    shutil.rmtree(out / "depth")
    (out / "depth").symlink_to(elsewhere)
    capsys.readouterr()
    assert main(arguments) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "depth is a symbolic link" in sentence
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("key", "value"),
    [("confidence", "nan"), ("probabilities", "inf"), ("depth", "nan"), ("normals", "nan"), ("depth", "-inf")],
)
def test_a_teacher_that_overflows_in_one_of_its_views(key, value, tmp_path, capsys):
    """Is told, and spoils nothing; a panorama of which it sees too little fails."""
    views = {"class_path": "RandomViews", "init_args": {"count": 16, "size": 32}}
    data = {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": 2}}

    def run(out, broken):
        init = {"key": key, "value": value, "views": broken}
        teachers = [{"class_path": f"{__name__}.Overflows", "init_args": init}]
        path = config(tmp_path / "tiny.yaml", views=views, data=data, teachers=teachers)
        return main(["label", "--config", path, "--out", str(out)]), capsys.readouterr().out

    status, told = run(tmp_path / "out", 1)
    assert status == 0
    assert "2 views of 2 panoramas were left out: a teacher gave NaN or infinite values for them" in told
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "out" / "runs").iterdir()]
    assert record["broken_views"] == {"train-000000": 1, "train-000001": 1}
    labels = PseudoLabelDataModule(tmp_path / "out", height=HEIGHT, width=WIDTH).dataset("train")
    for truth, stored in zip(RoomsDataset("train", 2, HEIGHT, WIDTH), labels, strict=True):
        known = stored["depth"] > 0
        assert known.float().mean() > 0.97
        assert ((stored["depth"] / truth["depth"])[known] - 1).abs().median() < 0.02
        assert (stored["semseg"] == truth["semseg"]).float().mean() > 0.9
        assert (stored["normals"] * truth["normals"]).sum(0)[known].median() > 0.99
    status, told = run(tmp_path / "none", 9)
    assert status == 1
    assert told.startswith("0 labelled, 2 failed") and f"{key} of teacher 1 are NaN or infinite in 9 of 16" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give panoramas"),
        (["--data.class_path=RoomsDataModule", "."], "give panoramas"),
        (["no_such.jpg"], "labelled"),
        (["."], "holds no image"),
        (["x.jpg", "--out=config.yaml"], "is a file"),
        (["x.jpg", "--out=."], "holds files but no manifest.json"),
        (["x.jpg", "--height=100"], "twice as wide as high"),
        (["x.jpg", "--writers=0"], "at least one thread"),
        (["x.jpg", "--num_workers=-1"], "num_workers must not be negative"),
        (["x.jpg", "--invalid_mask=none.png"], "none.png does not exist"),
        (["x.jpg", "--no_depth_classes=[sky]"], "no teacher knows sky"),
        (["x.jpg", "--views.init_args.count=0"], "at least one view"),
        (["x.jpg", "--views.init_args.fow=90"], "fow"),
        (["x.jpg", "--teachers=[]"], "at least one teacher"),
        (["x.jpg", "--trainer.precision=bf16-true"], "take bf16-mixed"),
        (["x.jpg", "--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "take ddp"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config(tmp_path / "config.yaml", **grey())
    status = main(["label", "--config", "config.yaml", "--out", "out", *arguments])
    assert status == 1
    printed = capsys.readouterr()
    assert sentence in printed.err + printed.out
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) <= 1


def _command(arguments, environment, log):
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
    with open(log, "a", buffering=1) as file:  # noqa: PTH123 - line by line, for what is killed
        sys.stdout = sys.stderr = file
        status = main(arguments)
    os._exit(status)


@pytest.fixture
def start():
    """Start the command in a process of its own, which need not import everything again; none outlives the test."""
    processes = []

    def begin(arguments, log, **environment):
        process = multiprocessing.get_context("fork").Process(target=_command, args=(arguments, environment, str(log)))
        process.start()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.join()  # without a limit, which would wait for the loader's workers too; it is dead


def until(condition, seconds=100):
    """Wait for something, but not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.002)


def end_of(process, seconds=100):
    """Wait for a process and return its status."""
    until(lambda: not process.is_alive(), seconds)
    return process.exitcode


def test_killed_at_any_moment_and_restarted(tmp_path, whole, start):
    """Byte for byte what an undisturbed run writes, and nothing else."""
    out = tmp_path / "out"
    arguments = ["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(out), "--num_workers=1"]
    moments = random.Random(0)
    for kill in range(3):
        process = start(arguments, tmp_path / "log")
        wanted = moments.randrange(kill, kill + 3)  # panoramas that are finished by then
        until(lambda wanted=wanted, one=process: len(list((out / "img").glob("*"))) >= wanted or not one.is_alive())
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        end_of(process)
        for image in (out / "img").glob("*"):
            finished = {path: data for path, data in labels_of(out).items() if f"/{image.stem}" in path}
            expected = {path: data for path, data in labels_of(whole).items() if f"/{image.stem}" in path}
            assert finished == expected
    assert end_of(start(arguments, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert labels_of(out) == labels_of(whole)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        (signal.SIGTERM, 1, "the process was asked to end"),
        (signal.SIGINT, 130, "interrupted; finished results are kept"),
    ],
)
def test_asked_to_end(kind, status, told, tmp_path, start):
    """By the system or by Ctrl-C: at once, in one sentence, and in order."""
    data = {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": 500}}
    out = tmp_path / "out"
    process = start(
        ["label", "--config", config(tmp_path / "tiny.yaml", data=data), "--out", str(out)], tmp_path / "log"
    )
    until(lambda: len(list((out / "img").glob("*"))) >= 2 or not process.is_alive())
    os.kill(process.pid, kind)
    assert end_of(process) == status, (tmp_path / "log").read_text()
    assert told in (tmp_path / "log").read_text().splitlines()[-1]
    assert not list(out.glob(".*"))
    finished = {path.stem for path in (out / "img").iterdir()}
    assert 2 <= len(finished) < 500
    assert set(json.loads((out / "db_info" / "panomtdu_train.json").read_text())) == finished


def noted(log):
    """Which process has labelled what, by the teacher's notes."""
    return [tuple(line.split()) for line in log.read_text().splitlines()]


def test_processes_that_are_started_independently_share_the_work(photos, tmp_path, start):
    """Each of them labels a part, next to nothing is labelled twice, and the files are those of one process."""
    for i in range(5, 16):
        Image.new("RGB", (WIDTH, HEIGHT), (9 * i,) * 3).save(photos / f"p{i}.png")
    teachers = [{"class_path": f"{__name__}.Meets", "init_args": {"log": str(tmp_path / "log"), "processes": 2}}]
    path = config(tmp_path / "tiny.yaml", **grey() | {"teachers": teachers})
    arguments = ["label", str(photos), "--config", path, "--num_workers=1", "--writers=1"]
    started = [start([*arguments, "--out", str(tmp_path / "both")], tmp_path / f"log-{i}") for i in range(2)]
    assert [end_of(process) for process in started] == [0, 0], [(tmp_path / f"log-{i}").read_text() for i in range(2)]
    notes = noted(tmp_path / "log")
    counts = [sum(process == str(one.pid) for process, _ in notes) for one in started]
    assert {name for _, name in notes} == {f"p{i}" for i in range(16)}
    assert min(counts) >= 4 and sum(counts) <= 16 + 3
    records = [json.loads(path.read_text())["counts"] for path in (tmp_path / "both" / "runs").iterdir()]
    assert sum(record["labelled"] for record in records) == 16
    assert all(record["labelled"] + record["skipped"] == 16 and not record["failed"] for record in records)
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert labels_of(tmp_path / "both") == labels_of(tmp_path / "one")
    assert not list((tmp_path / "both").glob(".*"))


def test_a_process_takes_over_from_one_that_was_killed(photos, tmp_path, start):
    """At once, without waiting for a claim to age."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "p2.png")
    teachers = [{"class_path": f"{__name__}.Meets", "init_args": {"log": str(tmp_path / "log"), "processes": 2}}]
    out, path = tmp_path / "out", config(tmp_path / "tiny.yaml", **grey() | {"teachers": teachers})
    arguments = ["label", str(photos), "--config", path, "--out", str(out), "--num_workers=1"]
    started = [start(arguments, tmp_path / f"log-{i}") for i in range(2)]
    codes = [end_of(process) for process in started]
    assert sorted(codes) == [-signal.SIGKILL, 0], [(tmp_path / f"log-{i}").read_text() for i in range(2)]
    assert sorted(path.stem for path in (out / "img").iterdir()) == [f"p{i}" for i in range(5)]
    assert json.loads((out / "db_info" / "panomtdu_train.json").read_text()) == [f"p{i}" for i in range(5)]
    assert main(arguments) == 0
    assert not list(out.glob(".*"))


def ranks(start, arguments, folder, count=2):
    """Run the command as `torchrun` starts it, in processes that find each other over the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        environment = {
            "TORCHELASTIC_RUN_ID": "test",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        options = ["--trainer.strategy=ddp", f"--trainer.devices={count}"]
        processes.append(start([*arguments, *options], folder / f"log-{rank}", **environment))
    return [end_of(process) for process in processes], [(folder / f"log-{i}").read_text() for i in range(count)]


def test_two_processes_write_what_one_writes(tmp_path, whole, start):
    out = tmp_path / "out"
    codes, logs = ranks(start, ["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(out)], tmp_path)
    assert codes == [0, 0], logs
    assert labels_of(out) == labels_of(whole)
    assert not list(out.glob(".*"))
    assert f"{ROOMS} labelled" in logs[0]
    assert "labelled" not in logs[1]
    (record,) = (json.loads(path.read_text()) for path in (out / "runs").iterdir())
    assert record["counts"]["labelled"] == ROOMS
    assert record["processes"] == 2


def test_a_process_with_nothing_left_to_do_does_not_disturb_the_other(photos, tmp_path, start):
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main(arguments) == 0
    before = labels_of(out)
    (out / "img" / "p3.jpg").unlink()  # the share of the second process is p1 and p3
    codes, logs = ranks(start, arguments, tmp_path)
    assert codes == [0, 0], logs
    assert "1 labelled" in logs[0] and "4 skipped" in logs[0]
    assert labels_of(out) == before
    assert not list(out.glob(".*"))


def test_a_failure_in_one_process_does_not_disturb_the_other(photos, tmp_path, start):
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "p1.png")
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    codes, logs = ranks(start, arguments, tmp_path)
    assert codes == [1, 1], logs
    assert "p1: RuntimeError: it is too dark" in logs[0]
    assert sorted(path.stem for path in (out / "img").iterdir()) == ["p0", "p2", "p3", "p4"]


def test_a_process_that_dies_does_not_hang_the_other(photos, tmp_path, start):
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "p1.png")
    out = tmp_path / "out"
    path = config(tmp_path / "tiny.yaml", **grey(dies=True))
    codes, logs = ranks(start, ["label", str(photos), "--config", path, "--out", str(out)], tmp_path)
    assert codes == [1, -signal.SIGKILL], logs
    assert "another process of this run has died" in logs[0]
    assert {"p0", "p2", "p4"} <= {path.stem for path in (out / "img").iterdir()}
