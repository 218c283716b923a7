import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import Brightness
from run_files import KINDS, names, save
from waiting import until

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import find_images
from mtpano_zoo.machine.workers import asked_to_stop
from mtpano_zoo.prediction import pipeline
from mtpano_zoo.prediction.maps import Prediction
from mtpano_zoo.run import RunReport, run
from mtpano_zoo.run import images as module
from mtpano_zoo.run import output as writing


def test_folder_is_mirrored(photos, tmp_path):
    network, out = Brightness(), tmp_path / "out"
    report = run([photos], network, out, progress=False)
    assert len(report.written) == 5 and not report.skipped and not report.failed and report.exit_code == 0
    stems = ["A", "b", "d.v2", "sub/b", "sub/deep/c"]
    assert names(out) == sorted(f"{stem}_{kind}" for stem in stems for kind in KINDS)
    np.testing.assert_allclose(np.load(out / "sub" / "b_depth.npy"), 1 + 4 * 80 / 255, atol=0.01)
    assert report.summary() == "5 written"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_of_images_of_any_size(tmp_path, batch_size):
    images = [save(tmp_path / f"{i}.png", 50 * i, size=(32 + 8 * i, 16 + 4 * i)) for i in range(5)]
    network = Brightness()
    report = run(images, network, tmp_path / "out", batch_size=batch_size, progress=False)
    assert report.written == images
    assert sum(network.batches) == 5 and max(network.batches) == min(batch_size, 5)
    for i in range(5):
        depth = np.load(tmp_path / "out" / f"{i}_depth.npy")
        assert depth.shape == (16 + 4 * i, 32 + 8 * i)
        np.testing.assert_allclose(depth, 1 + 4 * 50 * i / 255, rtol=1e-5)


def test_a_place_where_nothing_can_be_written_is_told_before_the_network_works(photos, tmp_path):
    (tmp_path / "file").write_text("")
    network = Brightness()
    with pytest.raises(OSError, match="file/out"):
        run([photos], network, tmp_path / "file" / "out", progress=False)
    assert not network.batches


def test_a_bad_image_does_not_stop_the_others(tmp_path):
    good = [save(tmp_path / f"{i}.png") for i in range(3)]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    wide = save(tmp_path / "wide.png", size=(48, 16))
    sources = [good[0], tmp_path / "broken.jpg", good[1], tmp_path / "none.png", wide, good[2]]
    report = run(sources, Brightness(), tmp_path / "out", batch_size=2, progress=False)
    assert report.written == good and report.exit_code == 1
    assert [path.name for path in report.failed] == ["broken.jpg", "none.png", "wide.png"]
    summary = report.summary().splitlines()
    assert summary[0] == "3 written, 3 failed" and len(summary) == 4
    for line, sentence in zip(summary[1:], ("not an image", "does not exist", "48 x 16 pixels"), strict=True):
        assert sentence in line


def test_results_that_cannot_be_written_are_reported_and_not_doubted(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "doubts", lambda network, levels, whole: [("it is odd",)] * len(whole))
    images = [save(tmp_path / "a" / "x.png"), save(tmp_path / "b.png")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("a file where a folder is needed")
    report = run([tmp_path], Brightness(), tmp_path / "out", progress=False)
    assert report.written == images[1:]
    assert "cannot be written" in report.failed[images[0]] and "is a file" in report.failed[images[0]]
    assert report.doubted == {images[1]: "it is odd"}


def test_no_memory_is_reported(tmp_path):
    class Hungry(Brightness):
        def forward(self, image):
            if len(image) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(image)

    images = [save(tmp_path / f"{i}.png") for i in range(3)]
    report = run(images, Hungry(), tmp_path / "out", batch_size=2, progress=False)
    assert report.written == images[2:] and len(report.failed) == 2
    assert "smaller batch" in report.summary()


def test_errors_of_the_network_are_not_hidden(tmp_path):
    class Broken(Brightness):
        def forward(self, image):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run([save(tmp_path / "a.png")], Broken(), tmp_path / "out", progress=False)


def test_results_inside_the_folder_are_not_taken_for_images(photos):
    report = run([photos], Brightness(), photos / "out", progress=False)
    again = run([photos], Brightness(), photos / "out", progress=False)
    assert len(report.written) == len(again.skipped) == 5 and not again.written
    with pytest.raises(ValueError, match="holds the images: choose another folder"):
        run([photos], Brightness(), photos, progress=False)


def test_panels_are_left_out_on_request(photos, tmp_path):
    options = {"out": tmp_path / "out", "progress": False}
    assert len(run([photos / "b.jpg"], Brightness(), **options, panel=False).written) == 1
    assert names(options["out"]) == ["b_depth.npy", "b_depth.png"]
    assert len(run([photos / "b.jpg"], Brightness(), **options, panel=False).skipped) == 1
    assert len(run([photos / "b.jpg"], Brightness(), **options).written) == 1  # what is missing is the panel
    assert (options["out"] / "b_panel.png").exists()
    run([photos / "b.jpg"], Brightness(), **options, panel=False, overwrite=True)
    assert not (options["out"] / "b_panel.png").exists()  # it would show what the maps no longer say


def test_results_may_stand_beside_single_images_and_above_folders(photos):
    report = run([photos / "b.jpg"], Brightness(), photos, progress=False)
    assert report.written == [photos / "b.jpg"] and (photos / "b_panel.png").exists()
    assert len(find_images([photos / "sub"], photos)) == 2


def test_an_image_is_never_replaced_by_a_result(tmp_path):
    images = [save(tmp_path / "room.png"), save(tmp_path / "room_depth.png", 200)]
    before = images[1].read_bytes()
    for sources in (images, images[::-1]):
        with pytest.raises(InputError, match=r"room_depth.png is one of the images, and a result of .*room.png would"):
            run(sources, Brightness(), tmp_path, progress=False, overwrite=True)
    assert images[1].read_bytes() == before and sorted(tmp_path.iterdir()) == images
    assert len(run(images, Brightness(), tmp_path / "out", progress=False).written) == 2
    link = tmp_path / "link.png"
    link.symlink_to(images[1])
    with pytest.raises(InputError, match=r"room_depth.png is one of the images"):
        run([images[0], link], Brightness(), tmp_path, progress=False, overwrite=True)
    panel = [images[0], save(tmp_path / "room_panel.png")]
    with pytest.raises(InputError, match=r"room_panel.png is one of the images"):
        run(panel, Brightness(), tmp_path, progress=False)
    assert len(run(panel, Brightness(), tmp_path / "third", progress=False, panel=False).written) == 2


@pytest.mark.parametrize("content", [b"a picture", b"[1]", b'{"classes": []}'])
def test_a_report_replaces_only_a_report(tmp_path, capsys, content):
    (tmp_path / "report.json").write_bytes(content)
    image, report = save(tmp_path / "a.png"), tmp_path / "report.json"
    assert main(["run", str(image), "--out", str(tmp_path / "out"), "--json", str(report)]) == 1
    assert "report.json exists and is not an earlier report: choose another name" in capsys.readouterr().err
    assert report.read_bytes() == content and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [(), ("notes.txt",), (".hidden.png",)])
def test_folder_without_images(tmp_path, content):
    (tmp_path / "empty").mkdir()
    for name in content:
        (tmp_path / "empty" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty holds no image \(\.jpg, "):
        run([tmp_path / "empty"], Brightness(), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


BAD_NAMES = ["a" * 248 + ".jpg", "dot..jpg", "space .jpg", "back\\slash.jpg", "C:x.jpg", "...jpg"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_image_whose_name_cannot_name_results_does_not_stop_the_others(tmp_path, name):
    good, bad = save(tmp_path / "in" / "good.png"), tmp_path / "in" / name
    bad.write_bytes(good.read_bytes())
    report = run([bad, good], Brightness(), tmp_path / "out", progress=False, panel=False)
    assert report.written == [good] and list(report.failed) == [bad] and report.exit_code == 1
    assert re.search(
        r"is left out: The id '.* (cannot name a file|makes a file name of 2\d\d bytes)", report.failed[bad]
    )
    assert names(tmp_path / "out") == ["good_depth.npy", "good_depth.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_folder_whose_name_cannot_be_kept_costs_its_images_only(tmp_path):
    bad, good = save(tmp_path / "in" / "dots.." / "x.png"), save(tmp_path / "in" / "good.png")
    report = run([tmp_path / "in"], Brightness(), tmp_path / "out", progress=False)
    assert report.written == [good] and list(report.failed) == [bad]


@pytest.mark.parametrize("name", ["n" * 300 + ".jpg", "deep/" * 900 + "x.jpg"])
def test_a_name_that_is_too_long_for_any_file_does_not_stop_the_others(tmp_path, name):
    good = save(tmp_path / "good.png")
    report = run([name, good], Brightness(), tmp_path / "out", progress=False)
    assert report.written == [good] and list(report.failed) == [Path(name)]


def test_a_file_name_that_is_not_text_is_told(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(b"no image")
    summary = run([path], Brightness(), tmp_path / "out", progress=False).summary()
    assert "caf\\udce9.jpg is truncated or not an image" in summary and summary.encode("utf-8")


@pytest.mark.parametrize(("options", "sentence"), [
    ({"sources": []}, "no image and no folder"),
    ({"batch_size": 0}, "at least 1, not 0"),
    ({"out": "file"}, "is a file: choose a folder"),
    ({"precision": "int8"}, "float32 or bfloat16"),
    ({"workers": -1}, "processes, or 0 for a thread, not -1"),
])  # fmt: skip
def test_bad_options(tmp_path, options, sentence):
    (tmp_path / "file").write_text("")
    out = tmp_path / options.pop("out", "out")
    sources = options.pop("sources", [save(tmp_path / "a.png")])
    with pytest.raises(ValueError, match=sentence):
        run(sources, Brightness(), out, progress=False, **options)


def test_nothing_is_printed_but_the_bar(tmp_path, capsys):
    images = [save(tmp_path / "a.png"), tmp_path / "none.png"]
    run(images, Brightness(), tmp_path / "out", progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    run(images, Brightness(), tmp_path / "out", overwrite=True, device="cpu")
    captured = capsys.readouterr()
    assert captured.out == "" and "2/2" in captured.err


def test_exit_code():
    assert RunReport().exit_code == RunReport(skipped=[Path("a")]).exit_code == 0
    assert RunReport(written=[Path("b")], failed={Path("a"): "why"}).exit_code == 1


def test_reading_is_ahead_of_the_network_by_a_few_images_only(tmp_path, monkeypatch):
    asked_for, ahead = [], []

    class Readers(ThreadPoolExecutor):
        def submit(self, read, path):
            asked_for.append(path)
            return super().submit(read, path)

    class Watching(Brightness):
        def forward(self, image):
            ahead.append(len(asked_for) - sum(self.batches))
            return super().forward(image)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Readers)
    images = [save(tmp_path / f"{i:02d}.png") for i in range(15)]
    assert run(images, Watching(), tmp_path / "out", batch_size=2, progress=False).written == images
    assert asked_for == images
    assert max(ahead) == 6  # what the network works on, and two batches more


def test_the_network_is_not_ahead_of_the_writing_by_many(tmp_path, monkeypatch):
    images = [save(tmp_path / f"{i:02d}.png") for i in range(12)]
    network, behind, network_waits = Brightness(), [], threading.Event()
    take = writing.Output._take
    monkeypatch.setattr(writing.Output, "_take", lambda output: network_waits.set() or take(output))

    def save_late(prediction, out, name, *how):
        until(lambda: network_waits.is_set() or sum(network.batches) == len(images))
        behind.append(sum(network.batches) - len(behind))

    monkeypatch.setattr(writing, "_save", save_late)
    assert run(images, network, tmp_path / "out", progress=False).written == images
    assert max(behind) == writing.WRITTEN_BEHIND + 1  # what is being written, and what waits for it


def test_failures_are_told_in_the_order_of_the_images(tmp_path, monkeypatch):
    images, network = [save(tmp_path / f"{i}.png") for i in range(6)], Brightness()
    for i in (2, 4):
        images[i].write_bytes(b"no image")

    def fail_late(prediction, out, name, *how):
        until(lambda: sum(network.batches) >= 3)  # those of 0, 1 and 3: by then, 2 could not be read
        if name in "03":
            raise OSError("the disk is full")

    monkeypatch.setattr(writing, "_save", fail_late)
    report = run(images, network, tmp_path / "out", progress=False)
    assert list(report.failed) == [images[i] for i in (0, 2, 3, 4)] and report.written == [images[1], images[5]]
    assert "the results of" in report.failed[images[3]] and "the disk is full" in report.failed[images[3]]


def test_an_interrupt_ends_the_writing_after_the_file_in_work(tmp_path, monkeypatch):
    written, begun = [], threading.Event()

    def save_slowly(*_, **__):
        for i in range(5):
            written.append(i)
            if i == 2:
                begun.set()
                until(asked_to_stop)
            yield i

    class Interrupted(Brightness):
        def forward(self, image):
            if self.batches:
                assert begun.wait(100)
                raise KeyboardInterrupt
            return super().forward(image)

    monkeypatch.setattr(Prediction, "save_each", save_slowly)
    images = [save(tmp_path / f"{name}.png") for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        run(images, Interrupted(), tmp_path / "out", progress=False)
    assert written == [0, 1, 2]


def test_a_device_that_is_not_there_is_told_before_the_network_works(tmp_path):
    with pytest.raises(InputError, match=r"The device 'vulkan' cannot be used here: [^;]{,80}; choose cpu"):
        run([save(tmp_path / "a.png")], Brightness(), tmp_path / "out", progress=False, device="vulkan")
    assert not (tmp_path / "out").exists()


def test_processes_write_the_same(tmp_path):
    images = [save(tmp_path / f"{i}.png", 60 * i) for i in range(3)]
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "2_panel.png").mkdir()  # where no file can be written
    threads = run(images, Brightness(), tmp_path / "thread", progress=False)
    processes = run(images, Brightness(), tmp_path / "both", workers=1, overwrite=True, progress=False)
    assert threads.written == images and processes.written == images[:2]
    assert "cannot be written" in processes.failed[images[2]]
    for name in (f"{i}_{kind}" for i in range(2) for kind in KINDS):
        assert (tmp_path / "thread" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()


# Scenes


def test_points_and_meshes_are_written_when_asked(tmp_path):
    image, out = save(tmp_path / "a.png"), tmp_path / "out"
    run([image], Brightness(), out, progress=False)
    assert names(out) == [f"a_{kind}" for kind in KINDS]
    report = run([image], Brightness(), out, progress=False, scenes=["ply", "glb"])
    assert report.written == [image]
    assert names(out) == sorted(f"a_{kind}" for kind in (*KINDS, "points.ply", "mesh.glb"))
    assert (out / "a_mesh.glb").read_bytes()[:4] == b"glTF"
    assert b"element vertex 512\n" in (out / "a_points.ply").read_bytes()
    assert run([image], Brightness(), out, progress=False, scenes=["glb"]).skipped == [image]
    assert run([image], Brightness(), out, progress=False).skipped == [image]
    with pytest.raises(InputError, match=r"other settings \(options.stride was None, is 4"):
        run([image], Brightness(), out, progress=False, scenes=["ply"], stride=4)
    run([image], Brightness(), out, progress=False, scenes=["ply"], stride=4, overwrite=True)
    assert b"element vertex 32\n" in (out / "a_points.ply").read_bytes()
    assert not (out / "a_mesh.glb").exists()  # it would show the maps that were replaced


def test_a_panorama_without_distances_has_no_mesh(tmp_path):
    class Nothing(Brightness):
        tasks = ("depth", "valid")

        def forward(self, image):
            return super().forward(image) | {"valid": -torch.ones_like(image[:, :1])}

    image, out = save(tmp_path / "a.png"), tmp_path / "out"
    report = run([image], Nothing(), out, progress=False, scenes=["glb"])
    assert "cannot be written: there is no surface to export, because no pixel has a distance" in report.summary()
    assert report.exit_code == 1 and not (out / "a_mesh.glb").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scenes": ["obj"]}, "a scene is written as ply or glb, not obj"),
        ({"scenes": ["glb"], "stride": 0}, "stride is a positive number of pixels"),
        ({"stride": 2}, "stride applies only to ply and glb: ask for one of them"),
    ],
)
def test_scenes_that_cannot_be_written_are_refused_at_once(options, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        run([save(tmp_path / "a.png")], Brightness(), tmp_path / "out", progress=False, **options)
    network = Brightness()
    network.tasks = ("normals",)
    with pytest.raises(InputError, match="need depth, which this network does not predict"):
        run([save(tmp_path / "a.png")], network, tmp_path / "out", progress=False, scenes=["ply", "glb"])
