"""Scores agree with the metrics themselves, a stopped call goes on, and wrong input is one sentence."""

import json
import math
import multiprocessing
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluated import depths, planted, predictor, scored
from PIL import Image
from planted import CLASSES, PlantedPredictor, PlantedRooms

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.evaluation.command import judge, summary
from mtpano_zoo.evaluation.data_sets import open_data
from mtpano_zoo.evaluation.mistakes import common_mistakes, mistakes
from mtpano_zoo.evaluation.predictors import FolderPredictor, FunctionPredictor
from mtpano_zoo.evaluation.protocol import read_protocol
from mtpano_zoo.evaluation.report import build_report
from mtpano_zoo.evaluation.runner import evaluate
from mtpano_zoo.image_io import encode_depth
from mtpano_zoo.metrics import DepthAnywhereMetrics, DepthMetrics, NormalsMetrics, RelativeDepthMetrics, SemsegMetrics
from mtpano_zoo.sphere import to_cubemap

H, W = 16, 32
LIGHT = ("yaw", "tilt")


def test_scores_are_those_of_the_metrics(tmp_path):
    report = scored([predictor()], planted(), tmp_path, skip=LIGHT)
    depth, normals, semseg = DepthMetrics(), NormalsMetrics(weighting="solid_angle"), SemsegMetrics(CLASSES)
    rooms, own = PlantedRooms(3), PlantedPredictor()
    for i in range(3):
        sample, maps = rooms[i], own(rooms[i]["image"])
        for metric, task in ((depth, "depth"), (normals, "normals"), (semseg, "semseg")):
            metric.update(maps[task][None], sample[task][None])
    model = report["models"]["mine"]
    assert model["scores"]["depth/AbsRel"] == pytest.approx(depth.compute()["AbsRel"].item(), rel=1e-6)
    assert model["scores"]["semseg/mIoU"] == pytest.approx(semseg.compute()["mIoU"].item(), rel=1e-6)
    weighted = model["scores_by_solid_angle"]["normals/mean"]
    assert weighted == pytest.approx(normals.compute()["mean"].item(), rel=1e-6)


def test_the_protocol_is_the_configuration(tmp_path):
    assert read_protocol("evaluate-median-aligned-10m-per-image.yaml")["depth"].alignment == "median"
    name = "evaluate-median-aligned-10m-per-image.yaml"
    (found,) = evaluate([predictor(defect="scale")], planted(1), tmp_path, chosen=read_protocol(name), skip=LIGHT)
    report = build_report([found], planted(1), name)
    model = report["models"]["mine"]
    assert model["scores"]["depth/AbsRel/median_aligned"] < 0.02 < abs(model["measures"]["scale/depth"]["value"] - 1)
    assert any("ratio of the medians" in sentence for sentence in report["protocol"]["words"])
    assert model["worst"] == [found.rows[0]["id"]]
    assert re.search(r"  depth/AbsRel/median_aligned 0\.0", summary(report))
    for bad in ("model: {metrics: {deth: 1}}", "model: {init_args: {metrics: 1}}", "model: {init_args: 1}", "{}"):
        (tmp_path / "bad.yaml").write_text(bad)
        with pytest.raises(InputError, match="not a protocol"):
            read_protocol(tmp_path / "bad.yaml")


def test_a_protocol_may_have_its_metrics_below_init_args():
    assert type(read_protocol("depth_anywhere/evaluate-published.yaml")["disparity"]) is DepthAnywhereMetrics
    assert type(read_protocol("depth_anywhere/base.yaml")["disparity"]) is RelativeDepthMetrics


def test_an_image_with_a_prediction_that_is_not_finite_is_the_worst_and_in_every_mean(tmp_path):
    own, first = PlantedPredictor(), PlantedRooms(3)[0]

    def broken(image):
        depth = own(image)["depth"].clone()
        depth[3, 4] = torch.nan if torch.equal(image, first["image"]) else depth[3, 4]
        return {"depth": depth}

    predictors = [FunctionPredictor(broken, "broken"), predictor()]
    report = scored(predictors, planted(3), tmp_path, skip=LIGHT)
    model = report["models"]["broken"]
    assert math.isnan(model["scores"]["depth/AbsRel"])
    mean = model["mean_over_images"]["depth/AbsRel"]
    assert math.isnan(mean["value"]) and math.isnan(mean["low"]) and mean["images"] == 3
    assert model["worst"][0] == first["id"]
    assert not report["comparisons"][0]["differences"]["depth/AbsRel"]["separated"]


@pytest.mark.parametrize("kind", [RelativeDepthMetrics, DepthAnywhereMetrics])
def test_inverse_distances_are_scored_in_metres_if_the_protocol_says_so(kind, tmp_path):
    (tmp_path / "my.yaml").write_text(
        f"model: {{metrics: {{disparity: {{class_path: mtpano_zoo.metrics.{kind.__name__}}}}}}}"
    )
    own = PlantedPredictor()

    def inverse(image):
        return {"disparity": 1 / own(image)["depth"]}

    mine = FunctionPredictor(inverse, "mine")
    out = tmp_path / "out"
    model = judge([mine], planted(2), out, protocol=tmp_path / "my.yaml", skip=LIGHT)["models"]["mine"]
    for group, weighting in (("scores", "pixel"), ("scores_by_solid_angle", "solid_angle")):
        metric = kind()
        metric.weighting = weighting
        for i in range(2):
            sample = PlantedRooms(2)[i]
            metric.update(inverse(sample["image"])["disparity"][None, None], sample["depth"][None])
        assert model[group] == pytest.approx({f"disparity/{k}": float(v) for k, v in metric.compute().items()})
    assert model["scores"] != model["scores_by_solid_angle"]
    (error,) = (value for name, value in model["scores"].items() if "AbsRel" in name)
    assert error < 0.02


def test_scores_of_another_protocol_of_the_same_name_are_not_kept(tmp_path):
    for folder, limit in (("p1", 10.0), ("p2", 5.0)):
        (tmp_path / folder).mkdir()
        metric = f"{{class_path: mtpano_zoo.metrics.DepthMetrics, init_args: {{max_depth: {limit}}}}}"
        (tmp_path / folder / "my.yaml").write_text(f"model: {{metrics: {{depth: {metric}}}}}")

    def score(folder):
        skip = ("yaw", "tilt", "cross")
        return judge([predictor()], planted(2), tmp_path / "out", protocol=tmp_path / folder / "my.yaml", skip=skip)

    assert score("p1") == score("p1")
    with pytest.raises(InputError, match=r"settings.protocol was 'my.yaml \(\w{16}\)', is 'my.yaml \(\w{16}\)'"):
        score("p2")


class Stopped(Exception):
    pass


def test_a_stopped_call_goes_on_and_gives_the_same(tmp_path):
    whole = scored([predictor()], planted(), tmp_path / "whole", skip=LIGHT)

    def stop(text):
        if "panorama 2" in text:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate([predictor()], planted(), tmp_path / "parts", skip=LIGHT, report=stop)
    there = sorted((tmp_path / "parts" / "mine" / "images").iterdir())
    assert [path.name for path in there] == ["room-0.safetensors", "room-1.safetensors"]
    there[0].write_bytes(there[0].read_bytes()[:-9])  # damaged
    seen = []
    parts = scored([predictor()], planted(), tmp_path / "parts", skip=LIGHT, report=seen.append)
    assert seen == [f"mine: panorama {i} of 3 is scored" for i in (1, 3)]
    assert parts == whole
    rows = Path("mine", "images.jsonl")
    assert (tmp_path / "parts" / rows).read_bytes() == (tmp_path / "whole" / rows).read_bytes()
    fewer = scored([predictor()], planted(2), tmp_path / "parts", skip=LIGHT, report=seen.append)
    assert fewer["data"]["panoramas"] == fewer["models"]["mine"]["measures"]["scale/depth"]["images"] == 2
    assert len(seen) == 2
    with pytest.raises(InputError, match="other settings"):
        evaluate([predictor()], planted(), tmp_path / "parts", skip=("yaw",))


def test_files_are_hashed_once_for_all_predictors(tmp_path):
    hashed = []
    data = replace(planted(2), contents=lambda i: hashed.append(i) or f"hash of {i}")
    for models in (["mine", "yours"], ["mine", "yours", "theirs"]):  # a later call may find other files
        judged = evaluate([predictor(name) for name in models], data, tmp_path, skip=("yaw", "tilt", "cross"))
        assert [one.contents for one in judged] == [["hash of 0", "hash of 1"]] * len(models)
        assert sorted(hashed) == [0, 1]
        hashed.clear()


def test_scores_of_changed_data_are_not_kept(homes, tmp_path, monkeypatch):
    seen = []
    predictions = depths(open_data(homes), tmp_path / "p")

    def score(source, limit=None):
        evaluate([FolderPredictor(predictions)], open_data(source, limit=limit), tmp_path / "out", report=seen.append)

    first, second = tmp_path / "a" / "val", tmp_path / "b" / "val"
    for folder in (first, second):
        shutil.copytree(homes, folder, copy_function=shutil.copyfile)
    score(first)
    monkeypatch.chdir(first)
    label = max((first / "normals").iterdir())
    label.write_bytes(label.read_bytes())  # the date alone changes nothing
    for same in (".", "../val", second):
        score(same)
    label.write_bytes(label.read_bytes() + b" ")
    with pytest.raises(InputError, match=rf"labels of {label.stem} changed after .*/p/images/{label.stem}.safe"):
        score(first)
    score(first, limit=2)  # does not read the changed one
    (first / "classes.yaml").write_text((first / "classes.yaml").read_text().replace("name: wall,", "name: walls,"))
    with pytest.raises(InputError, match=r"out/p holds results of other settings \(settings.data.classes was"):
        score(first)
    assert len(seen) == 3


def test_processes_share_the_panoramas_and_give_the_same(tmp_path):
    """As torchrun starts them: each has a number; all wait for one another before they score and do not afterwards."""
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(2), context.Queue()

    def work(rank):
        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), WORLD_SIZE="2")
        seen = []

        def scored_one(text):
            if not seen:
                start.wait(60)  # one alone cannot have scored them all
            seen.append(text)

        content = scored([predictor()], planted(5), tmp_path / "shared", skip=LIGHT, report=scored_one)
        queue.put((rank, len(seen), json.dumps(content)))

    workers = [context.Process(target=work, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    (_, first, report), (_, second, other) = sorted(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert first >= 1 and second >= 1 and first + second < 2 * 5
    assert report == other == json.dumps(scored([predictor()], planted(5), tmp_path / "alone", skip=LIGHT))
    rows = Path("mine", "images.jsonl")
    assert (tmp_path / "shared" / rows).read_bytes() == (tmp_path / "alone" / rows).read_bytes()


def test_the_page_needs_nothing_else_and_compares(tmp_path):
    good, bad = predictor("good"), predictor("bad <script>", defect="yaw")
    report = judge([good, bad], planted(2), tmp_path, skip=("tilt",))
    text = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)|https?://|<script', text)
    assert text.count("data:image/png;base64,") == 2 + 2 * 2  # ratios, latitudes, and the worst of each
    (comparison,) = report["comparisons"]
    assert comparison["differences"]["yaw/depth"]["separated"]
    assert comparison["differences"]["depth/AbsRel"]["value"] < 0
    assert not comparison["differences"]["normals/mean"]["separated"]
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("name", ["report.json", "report.html"])
@pytest.mark.parametrize("content", ['{"written": []}', "mine"])
def test_a_report_replaces_only_an_earlier_one(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} exists and is not an earlier evaluation report"):
        judge([predictor()], planted(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == content
    (tmp_path / name).write_bytes(b"")
    judge([predictor()], planted(1), tmp_path, skip=("tilt", "yaw", "cross"))
    judge([predictor()], planted(1), tmp_path, skip=("tilt", "yaw", "cross"))


def test_cross_projection_is_for_predictors_that_take_views(tmp_path):
    rooms = PlantedRooms(1)

    def faces(images):  # what a network for pictures that agrees with the panorama would say
        return 3 * to_cubemap(rooms[0]["depth"][None, None], images.shape[-1], "depth")[0, :, 0]

    first = predictor("views", faces=faces)
    report = scored([first, predictor("none")], planted(1), tmp_path, skip=LIGHT)
    assert report["models"]["views"]["measures"]["cross/faces"]["value"] < 0.03
    assert report["models"]["views"]["measures"]["cross/panorama"]["value"] < 0.03
    assert "cross/faces" not in report["models"]["none"]["measures"]
    assert any("perspective views" in sentence for sentence in report["models"]["none"]["left_out"])


def test_classes_that_a_network_does_not_know_are_named(tmp_path):
    mine = FunctionPredictor(PlantedPredictor(), "mine", ("floor", "roof", "wall", "ball"))
    (found,) = evaluate([mine], planted(1), tmp_path, skip=LIGHT)
    assert found.remarks == ["it does not know these classes of the data, which count as wrong: ceiling"]


def test_a_network_that_errs_is_not_accused():
    rooms = PlantedRooms(3)
    noisy = PlantedPredictor(noise=0.3)
    found = [mistakes(noisy(rooms[i]["image"]), rooms[i]) for i in range(3)]
    assert common_mistakes(found) == []
    turned = [mistakes({"semseg": rooms[i]["semseg"].flip(-2)}, rooms[i]) for i in range(3)]
    assert common_mistakes(turned) == ["classes look upside down"]
    flat = [mistakes({"depth": torch.full_like(rooms[i]["depth"], 2.0)}, rooms[i]) for i in range(3)]
    assert common_mistakes(flat) == []


def test_the_first_image_has_to_be_a_panorama_if_the_size_is_its(homes, tmp_path):
    shutil.copytree(homes, tmp_path / "data")
    first = min((tmp_path / "data" / "images").iterdir())
    Image.new("RGB", (64, 40)).save(first)
    (tmp_path / "data" / "test.txt").write_text(max((tmp_path / "data" / "images").iterdir()).stem)
    with pytest.raises(InputError, match=rf"{first.name} is 64 x 40 pixels"):
        open_data(str(tmp_path / "data"))
    assert len(open_data(str(tmp_path / "data"), height=32).samples) == 1


@pytest.mark.parametrize("train", [None, "test-000000\n"])
def test_an_empty_list_is_not_scored_as_all(homes, tmp_path, train):
    shutil.copytree(homes, tmp_path / "ds")
    (tmp_path / "ds" / "test.txt").touch()
    if train:
        (tmp_path / "ds" / "train.txt").write_text(train)
    with pytest.raises(InputError, match=r"test.txt is empty"):
        open_data(tmp_path / "ds")


@pytest.mark.parametrize("lists", [(), ("train",), ("val",), ("train", "val")])
def test_without_a_list_for_test_all_labelled_panoramas_are_scored(homes, tmp_path, lists):
    root = shutil.copytree(homes, tmp_path / "ds")
    names = sorted(path.stem for path in (root / "images").iterdir())
    for name, which in zip(reversed(names), lists, strict=False):
        (root / f"{which}.txt").write_text(name)
    shutil.copyfile(root / "images" / f"{names[0]}.png", root / "images" / "unlabelled.png")
    for limit in (None, 2):
        samples = open_data(root, limit=limit).samples
        assert [sample["id"] for sample in samples] == names[:limit]
        assert [samples.name(i) for i in range(len(samples))] == names[:limit]


def test_the_command_line(homes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    depths(open_data(homes), tmp_path / "theirs", encode_depth, ".png")
    command = ["eval", "theirs", "--data", str(homes), "--out", "report", "--unit", "mm", "--limit", "2"]
    assert main([*command, "--protocol", "evaluate-unaligned-10m.yaml"]) == 0
    assert "report/report.html" in capsys.readouterr().out
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["data"]["panoramas"] == 2
    assert content["models"]["theirs"]["scores"]["depth/AbsRel"] < 0.01
    assert main([*command, "--protocol", "evaluate-unaligned.yaml"]) == 1
    assert "settings.protocol" in capsys.readouterr().err
    for wrong, sentence in (
        (["eval", "theirs", "--data", "roms"], "did you mean rooms?"),
        (["eval", "theirs", "--data", str(homes), "--limit", "0"], "--limit must be a positive number"),
        (["eval", "theirs", "--data", str(homes), "--height", "100000"], "--height 100000 is 200000 x 100000 pixels"),
        (["eval", "mtpano-tiny.roms", "--data", "rooms"], "mtpano-tiny.rooms"),
        (["eval", "mtpano-tiny.rooms", "--data", "rooms", "--unit", "0"], "--unit 0 is for folders of predictions"),
        (["eval", "mtpano-tiny.rooms", "--data", "rooms", "--kind", "z"], "--kind z is for folders of predictions"),
        (["eval", "theirs", "--data", str(homes), "--unit", "nan"], "--unit is m, cm, mm or metres per step"),
    ):
        assert main(wrong) == 1
        printed = capsys.readouterr().err
        assert sentence in printed and len(printed.strip().splitlines()) == 1


def test_names_that_are_not_utf8_are_scored(homes, tmp_path, capsys):
    odd, name = os.fsdecode(b"\xff\xfe"), open_data(homes).samples.name(0)
    for folder in ("images", "depth"):
        target = tmp_path / odd / folder / f"{odd}.png"
        target.parent.mkdir(parents=True)
        shutil.copyfile(homes / folder / f"{name}.png", target)
    data = open_data(tmp_path / odd)
    predictions, out = depths(data, tmp_path / f"p{odd}"), tmp_path / f"out{odd}"
    assert main(["eval", str(predictions), "--data", str(tmp_path / odd), "--out", str(out)]) == 0
    assert r"out\udcff\udcfe/report.html" in capsys.readouterr().out
    assert r"<h3>p\udcff\udcfe: \udcff\udcfe</h3>" in (out / "report.html").read_text()


def test_a_network_of_the_zoo(tmp_path):
    from mtpano_zoo.evaluation.command import open_predictors

    report = scored(open_predictors(["mtpano-tiny.rooms"]), open_data("rooms", 32, 1), tmp_path, skip=LIGHT)
    model = report["models"]["mtpano-tiny.rooms"]
    assert {name.split("/")[0] for name in model["scores"]} == {"semseg", "depth", "normals"}
    assert 0 < model["scores"]["depth/AbsRel"] < 1
