"""`mtpano label`: a panorama that cannot be labelled fails with one sentence and does not affect others."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_labeling import HEIGHT, TINY, WIDTH, config, grey, labels_of

from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule, RoomsDataset
from mtpano_zoo.labeling.module import Labeler
from mtpano_zoo.labeling.run import label
from mtpano_zoo.labeling.storage import LabelFolder
from mtpano_zoo.labeling.teachers.base import ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import RandomViews


class Overflows(OracleTeacher):
    """A teacher whose labels are not finite in one or more views."""

    def __init__(self, key: str, value: str, views: int = 1) -> None:
        super().__init__()
        self.key = key
        self.value = float(value)
        self.views = views

    def __call__(self, seen: ViewImages) -> ViewLabels:
        labels = super().__call__(seen)
        labels = replace(labels, confidence=torch.ones_like(labels.depth))
        getattr(labels, self.key)[: self.views] = self.value
        return labels


def test_files_and_what_cannot_be_labelled(photos, tmp_path, capsys):
    """An unreadable file, and a teacher that fails on one panorama: both are reported, and a later run labels them."""
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
    """Some encrypted file systems allow names of only 143 bytes, which is not known in advance."""
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
    """The message is one sentence, finished labels stay, and the next run completes the folder."""
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
    assert told[1].startswith(f"{out} cannot be written to: no space is left on the disk; finished labels are kept")
    assert len(told) == 2
    assert {path.stem for path in (out / "img").iterdir()} == set(written)
    assert not list(out.glob(".*"))
    assert main(arguments) == 0
    assert labels_of(out) == labels_of(whole)


class MissesAFile(Labeler):
    """A labeler that looks for a file once the networks have run."""

    def finish(self, observed):
        labels = super().finish(observed)
        if observed.masks.pop("absent", False):
            raise FileNotFoundError(errno.ENOENT, "No such file", "extra.npy")
        return labels

    def observe(self, name, sample):
        observed = super().observe(name, sample)
        observed.masks["absent"] = name == "train-000001"
        return observed


def test_what_fails_in_a_thread_concerns_one_panorama(tmp_path):
    rooms = RoomsDataset("train", 4, HEIGHT, WIDTH)
    labeler = MissesAFile(RandomViews(count=5, size=32), [OracleTeacher()], height=HEIGHT, width=WIDTH)
    report = label(rooms, tmp_path / "out", labeler, settings={}, trainer=TINY["trainer"], writers=1)
    assert len(report.done) == 3
    assert list(report.failed) == ["train-000001"] and "extra.npy" in report.failed["train-000001"]


def test_two_panoramas_of_one_id(tmp_path):
    rooms = RoomsDataset("train", 2, HEIGHT, WIDTH)
    twice = torch.utils.data.ConcatDataset([rooms, rooms])
    labeler = Labeler(RandomViews(count=5, size=32), [OracleTeacher()], height=HEIGHT, width=WIDTH)
    report = label(twice, tmp_path / "out", labeler, settings={}, trainer=TINY["trainer"])
    assert len(report.done) == 2
    assert report.failed.keys() == {"train-000000", "train-000001"}
    assert report.exit_code == 1


BAD = [".", "..", "x" * 300, "a\\b", "dot.", "../x", "../labels/depth/good", "/abs/x", "img/.."]


class Named(torch.utils.data.Dataset):
    """Rooms with these names."""

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
    """They fail alone; finished labels, and files outside the folder, stay as they are."""
    out = tmp_path / "labels"
    labeler = Labeler(RandomViews(count=5, size=32), [OracleTeacher()], height=HEIGHT, width=WIDTH)
    options = {"settings": {}, "trainer": TINY["trainer"]}
    assert label(Named(["good"]), out, labeler, **options).exit_code == 0
    before = labels_of(tmp_path)
    report = label(Named([*BAD, "other"], known), out, labeler, **options)
    assert report.exit_code == 1
    assert report.done == ["other"] and not report.skipped
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
    """Without its extension, `..png` is named one dot and `...png` two, which mean folders."""
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
    """It is reported and does no harm; a panorama with too few good views fails."""
    views = {"class_path": "RandomViews", "init_args": {"count": 16, "size": 32}}
    data = {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": 2}}

    def run(out, broken):
        init = {"key": key, "value": value, "views": broken}
        teachers = [{"class_path": f"{__name__}.Overflows", "init_args": init}]
        path = config(tmp_path / "tiny.yaml", views=views, data=data, teachers=teachers)
        return main(["label", "--config", path, "--out", str(out)]), capsys.readouterr().out

    status, told = run(tmp_path / "out", 1)
    assert status == 0
    assert "2 views of 2 panoramas were left out: a teacher returned NaN or infinite values for them" in told
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
        ([], "pass panoramas"),
        (["--data.class_path=RoomsDataModule", "."], "pass panoramas"),
        (["no_such.jpg"], "There is no image at no_such.jpg"),
        (["empty"], "holds no image"),
        (["images/x.jpg", "--out=config.yaml"], "is a file"),
        (["images/x.jpg", "--out=."], "holds files but no manifest.json"),
        (["images/x.jpg", "--height=100"], "twice as wide as high"),
        (["images/x.jpg", "--writers=0"], "at least one thread"),
        (["images/x.jpg", "--num_workers=-1"], "num_workers must not be negative"),
        (["images/x.jpg", "--invalid_mask=none.png"], "none.png does not exist"),
        (["images/x.jpg", "--no_depth_classes=[sky]"], "no teacher knows sky"),
        (["images/x.jpg", "--views.init_args.count=0"], "at least one view"),
        (["images/x.jpg", "--views.init_args.fow=90"], "fow"),
        (["images/x.jpg", "--teachers=[]"], "at least one teacher"),
        (["images/x.jpg", "--trainer.precision=bf16-true"], "use bf16-mixed"),
        (["images/x.jpg", "--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "use ddp"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config(tmp_path / "config.yaml", **grey())
    for folder in ("images", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "x.jpg").touch()
    status = main(["label", "--config", "config.yaml", "--out", "out", *arguments])
    assert status == 1
    printed = capsys.readouterr()
    assert sentence in printed.err + printed.out
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) <= 1
