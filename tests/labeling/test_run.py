"""`mtpano label`: folders of panoramas in, folders of labels out."""

import json
import shutil
import threading

import numpy as np
import torch
from PIL import Image
from tagged_files import partly_seen
from tiny_labeling import HEIGHT, ROOMS, TINY, WIDTH, config, grey, labels_of

from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule, RoomsDataset
from mtpano_zoo.labeling.module import Labeler
from mtpano_zoo.labeling.run import label
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import RandomViews


def test_what_is_written_is_what_was_fused(whole):
    """Read through the data module that trains on it."""
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
    """Names of files are known before the files are read, so nothing is left to do."""
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
    assert len(list((out / "runs").iterdir())) == 1


def test_names_of_labels_that_are_deleted_are_not_kept(photos, tmp_path):
    """Otherwise a process that starts after the deletion gives an image another name, and labels it again."""
    path = config(tmp_path / "tiny.yaml", **grey())
    other = ["--overwrite", "--keep_views=false"]
    (photos / "inner").mkdir()

    def names(out, *options):
        assert main(["label", str(photos), "--config", path, "--out", str(tmp_path / out), *options]) == 0
        return {file.name for file in (tmp_path / out / "img").iterdir()}

    first = names("out")
    shutil.copy(photos / "p1.png", photos / "inner" / "p0.png")
    with Image.open(photos / "p2.png") as image:
        image.save(photos / "p0.jpg")
    fresh = names("fresh", *other)
    assert not first < fresh
    assert names("out") > first  # the same settings
    assert names("out", *other) == fresh


def test_from_python(tmp_path, whole):
    """From Python with panoramas in another order, the files are the same. A subset's origin is its pixels."""
    rooms = RoomsDataset("train", ROOMS, HEIGHT, WIDTH)
    backwards = torch.utils.data.Subset(rooms, list(reversed(range(ROOMS))))
    teacher = OracleTeacher(scale=0.2, noise=0.05, wrong_classes=0.1)
    labeler = Labeler(RandomViews(count=5, size=32), [teacher], height=HEIGHT, width=WIDTH)
    report = label(backwards, tmp_path / "out", labeler, settings={"of": "mine"}, trainer=TINY["trainer"], writers=3)
    assert sorted(report.done) == [f"train-{i:06d}" for i in range(ROOMS)]
    mine, theirs = (
        {key: data for key, data in labels_of(root).items() if not key.startswith(("manifest.json", "origins/"))}
        for root in (tmp_path / "out", whole)
    )
    assert mine == theirs


def test_what_no_camera_has_seen_gets_no_label(tmp_path):
    """Also if the panorama is shrunk first."""
    (tmp_path / "photos").mkdir()
    seen = partly_seen(tmp_path / "photos")
    views = {"class_path": "mtpano_zoo.labeling.views.CubeViews", "init_args": {"size": 32}}
    path = config(tmp_path / "tiny.yaml", **grey(), views=views, max_height=HEIGHT)
    assert main(["label", str(tmp_path / "photos"), "--config", path, "--out", str(tmp_path / "out")]) == 0
    samples = PseudoLabelDataModule(tmp_path / "out", height=HEIGHT, width=WIDTH).dataset("train")
    assert len(samples) == 2
    for sample in (samples[0], samples[1]):
        assert np.array_equal(sample["depth"] > 0, seen[sample["id"]]), sample["id"]
        assert np.array_equal(sample["semseg"] != 255, seen[sample["id"]]), sample["id"]


def test_what_a_data_set_ignores_gets_no_label(photos, tmp_path):
    """In the default split, where nothing else of the data set is read."""
    views = {"class_path": "mtpano_zoo.labeling.views.CubeViews", "init_args": {"size": 32}}
    path = config(tmp_path / "tiny.yaml", **grey(), views=views)
    first = tmp_path / "first"
    assert main(["label", str(photos), "--config", path, "--out", str(first), "--listed_as=test"]) == 0
    counts = (np.arange(HEIGHT)[:, None] >= 7) | (np.arange(WIDTH) < 5)
    for number in range(5):
        (folder := first / "masks" / f"p{number}").mkdir(parents=True)
        Image.fromarray(np.where(np.roll(counts, number), 0, 255).astype(np.uint8)).save(folder / "merged.png")
    data = {"class_path": "PseudoLabelDataModule", "init_args": {"root": str(first), "height": HEIGHT, "width": WIDTH}}
    path = config(tmp_path / "again.yaml", **grey() | {"data": data}, views=views)
    assert main(["label", "--config", path, "--out", str(tmp_path / "out")]) == 0
    for number in range(5):
        depth = np.array(Image.open(tmp_path / "out" / "depth" / f"p{number}" / "merged.png"))
        assert np.array_equal(depth > 0, np.roll(counts, number))


class Counted(Labeler):
    """Counts panoramas that are observed but not yet fused, and notes the threads that fuse."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.lock, self.waiting, self.most, self.threads = threading.Lock(), 0, 0, set()

    def observe(self, name, sample):
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        return super().observe(name, sample)

    def finish(self, observed):
        self.threads.add(threading.current_thread())
        labels = super().finish(observed)
        with self.lock:
            self.waiting -= 1
        return labels


def test_few_panoramas_wait_for_the_threads_that_fuse(tmp_path):
    """Their views' probabilities fill the memory."""
    rooms = RoomsDataset("train", 8, HEIGHT, WIDTH)
    labeler = Counted(RandomViews(count=5, size=32), [OracleTeacher()], height=HEIGHT, width=WIDTH)
    report = label(rooms, tmp_path / "out", labeler, settings={}, trainer=TINY["trainer"], writers=2)
    assert len(report.done) == 8
    assert labeler.waiting == 0 and labeler.most <= 3
    assert 1 <= len(labeler.threads) <= 2 and threading.main_thread() not in labeler.threads
