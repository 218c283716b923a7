import hashlib
import json
import os
import re
import signal
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import Brightness
from PIL import Image
from processes import begin
from torch import nn
from waiting import until

from mtpano_zoo import prediction, zoo
from mtpano_zoo import run as module
from mtpano_zoo import run_output as writing
from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.manifest import MANIFEST, describe_model
from mtpano_zoo.models import prepare_for_inference
from mtpano_zoo.prediction import output_paths
from mtpano_zoo.prediction_folder import RECORDS
from mtpano_zoo.run import RunReport, find_images, run
from mtpano_zoo.workers import asked_to_stop

KINDS = ("depth.npy", "depth.png", "panel.png")


def save(path, level=128, size=(32, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)
    return path


def names(folder):
    """All files but those that say what made the others."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name not in (MANIFEST, RECORDS)]


def read_png(path):
    with Image.open(path) as image:
        return np.asarray(image)


def depth_of(folder, name):
    return float(np.load(folder / f"{name}_depth.npy").mean())


@pytest.fixture
def photos(tmp_path):
    for level, name in enumerate(("b.jpg", "A.PNG", "sub/b.webp", "sub/deep/c.tif", "d.v2.bmp")):
        save(tmp_path / "photos" / name, 40 * level)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    save(tmp_path / "photos" / ".hidden" / "x.png")
    save(tmp_path / "photos" / "._b.jpg")
    return tmp_path / "photos"


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


def test_a_stopped_run_goes_on_where_it_was(photos, tmp_path):
    network, out = Brightness(), tmp_path / "out"
    run([photos], network, out, progress=False)
    (out / "b_panel.png").unlink()  # stopped between two files of one image
    save(photos / "new.png")
    (out / "A_depth.npy").write_bytes(b"untouched")
    report = run([photos], network, out, progress=False)
    assert [path.name for path in report.written] == ["b.jpg", "new.png"]
    assert len(report.skipped) == 4 and report.exit_code == 0
    assert (out / "A_depth.npy").read_bytes() == b"untouched"
    assert re.fullmatch(r"2 written, 4 skipped because .*overwrite.*", report.summary())
    report = run([photos], network, out, overwrite=True, progress=False)
    assert len(report.written) == 6 and np.load(out / "A_depth.npy").shape == (16, 32)


@pytest.mark.parametrize("kind", [*KINDS])
def test_a_result_that_was_deleted_is_made_again(tmp_path, kind):
    image, out = save(tmp_path / "a.png"), tmp_path / "out"
    run([image], Brightness(), out, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / f"a_{kind}").unlink()
    assert run([image], Brightness(), out, progress=False).written == [image]
    assert all((out / name).read_bytes() == before[name] for name in map("a_{}".format, KINDS))
    assert run([image], Brightness(), out, progress=False).skipped == [image]


def test_files_of_the_users_own_are_kept(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b_panel.png").write_bytes(b"mine")
    for panel in (True, False):  # without a panel, saving would remove one
        with pytest.raises(InputError, match=r"b_panel\.png already exists, .* manifest\.json .*--out.*--overwrite"):
            run([photos / "A.PNG", photos / "b.jpg"], Brightness(), out, progress=False, panel=panel)
    assert names(out) == ["b_panel.png"] and not (out / MANIFEST).exists()
    run([photos / "A.PNG"], Brightness(), out, progress=False)  # from here on, the folder says what is ours
    for panel in (True, False):
        report = run([photos / "A.PNG", photos / "b.jpg"], Brightness(), out, progress=False, panel=panel)
        assert [path.name for path in report.failed] == ["b.jpg"] and len(report.skipped) == 1
        assert re.search(r"b_panel\.png already exists, but .*--out.*--overwrite", report.summary())
    assert (out / "b_panel.png").read_bytes() == b"mine" and not (out / "b_depth.png").exists()
    assert len(run([photos / "b.jpg"], Brightness(), out, progress=False, overwrite=True).written) == 1


def brighter(factor):
    network = Brightness()
    network.scale.data.fill_(factor)
    return network


class Sized(Brightness):
    input_size = (8, 16)


@pytest.mark.parametrize(("network", "options", "key"), [
    (brighter(2.0), {}, "model.weights"),
    (Sized(), {}, "model.network"),
    (Brightness(), {"blend_seam": True}, "options.blend_seam was False, is True"),
    (Brightness(), {"precision": "bfloat16"}, "options.precision was 'float32', is 'bfloat16'"),
])  # fmt: skip
def test_other_settings_in_the_same_folder_are_refused(tmp_path, network, options, key):
    first, second = save(tmp_path / "a.png", 100), save(tmp_path / "b.png", 100)
    out = tmp_path / "out"
    run([first], Brightness(), out, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=re.escape(key)) as caught:
        run([first, second], network, out, progress=False, **options)
    assert re.search(r"out holds results of other settings .*--out.*--overwrite", str(caught.value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run([first, second], network, out, progress=False, overwrite=True, **options).written == [first, second]
    assert run([first, second], network, out, progress=False, **options).skipped == [first, second]


def test_results_of_other_settings_are_made_again_once_the_folder_has_new_ones(tmp_path):
    """A run that overwrites and is stopped leaves old results under new settings: none may pass for a new one."""
    images, out = [save(tmp_path / f"{i}.png", 51) for i in range(3)], tmp_path / "out"
    run(images, Brightness(), out, progress=False)
    run(images[:1], brighter(10.0), out, progress=False, overwrite=True)
    report = run(images, brighter(10.0), out, progress=False)
    assert report.skipped == images[:1] and report.written == images[1:]
    assert [depth_of(out, i) for i in range(3)] == pytest.approx([18.0] * 3, rel=1e-4)


def test_settings_count_only_where_there_are_results(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert run([tmp_path / "a.png"], Brightness(), out, progress=False).exit_code == 1
    save(tmp_path / "a.png", 51)
    assert run([tmp_path / "a.png"], brighter(10.0), out, progress=False).exit_code == 0
    assert depth_of(out, "a") == pytest.approx(18.0, rel=1e-4)


def test_the_manifest_says_what_made_the_results(tmp_path):
    network, out = Brightness(), tmp_path / "out"
    described = describe_model(network, "mine.ckpt")
    run([save(tmp_path / "a.png")], prepare_for_inference(network), out, progress=False, described=described)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["command"] == "mtpano run" and manifest["format"] == "mtpano predictions, 1"
    assert manifest["options"] == {"precision": "float32", "mask_sky": False, "blend_seam": False}
    weights = hashlib.sha256(b"scale () torch.float32\n" + struct.pack("<f", 1.0)).hexdigest()
    assert manifest["model"] == {
        "name": "mine.ckpt", "weights": weights, "network": "Brightness", "tasks": ["depth"], "classes": [],
        "input_size": [16, 32], "config": None,
    }  # fmt: skip
    renamed = {**described, "name": "other.ckpt"}  # the same weights by another path
    assert len(run([tmp_path / "a.png"], network, out, progress=False, described=renamed).skipped) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "web app"}', '{"format": "mtpano pseudo-labels, 1"}'])
def test_a_manifest_of_something_else_is_kept(tmp_path, content):
    image = save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(content)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"manifest\.json is (not a manifest|of the format).*another folder"):
            run([image], Brightness(), tmp_path / "out", progress=False, overwrite=overwrite)
    assert (tmp_path / "out" / MANIFEST).read_text() == content


def test_another_image_of_the_same_name_is_not_taken_for_done(tmp_path):
    first, second = save(tmp_path / "a" / "x.png", 0), save(tmp_path / "b" / "x.png", 255)
    out = tmp_path / "out"
    run([first], Brightness(), out, progress=False)
    report = run([second], Brightness(), out, progress=False)
    assert report.exit_code == 1 and not report.skipped
    assert re.search(r"x_depth\.png is the result of another image .*--out.*--overwrite", report.failed[second])
    assert depth_of(out, "x") == pytest.approx(1)
    assert run([second], Brightness(), out, progress=False, overwrite=True).written == [second]
    assert depth_of(out, "x") == pytest.approx(5)
    first.write_bytes(second.read_bytes())  # a copy is the same image
    assert run([first], Brightness(), out, progress=False).skipped == [first]


@pytest.mark.parametrize("last", KINDS[:2])
def test_results_that_are_replaced_in_part_are_made_again(tmp_path, monkeypatch, last):
    """A changed image, overwritten until the disk is full: old and new files do not pass for the new image's."""
    image, out = save(tmp_path / "a.png", 0), tmp_path / "out"
    run([image], Brightness(), out, progress=False)
    save(image, 255)

    def fail(prediction, folder, name, panel, *how):
        for path in prediction.save_each(folder, name, True, panel):
            if path.name == f"a_{last}":
                raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_save", fail)
        assert run([image], Brightness(), out, progress=False, overwrite=True).exit_code == 1
    assert run([image], Brightness(), out, progress=False).written == [image]
    assert depth_of(out, "a") == pytest.approx(5)
    assert read_png(out / "a_depth.png").max() == 5000
    assert run([image], Brightness(), out, progress=False).skipped == [image]


def test_a_damaged_list_of_images_costs_nothing_else(tmp_path):
    images, out = [save(tmp_path / f"{i}.png") for i in range(2)], tmp_path / "out"
    run(images, Brightness(), out, progress=False)
    kept = [line for line in (out / RECORDS).read_text().splitlines() if '"name": "1"' in line]
    (out / RECORDS).write_text("\n".join(["", "[1]", *kept, '{"name": "0", "sha2']))  # the last line was cut off
    report = run(images, Brightness(), out, progress=False)
    assert report.skipped == images[1:] and list(report.failed) == images[:1]
    new = save(tmp_path / "new.png")
    run([new], Brightness(), out, progress=False)
    assert run([new], Brightness(), out, progress=False).skipped == [new]


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
    monkeypatch.setattr(prediction, "doubts", lambda network, images, whole: [("it is odd",)] * len(images))
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


class Quick(nn.Module):
    tasks, classes, input_size = ("depth", "normals"), (), (16, 32)

    def forward(self, image):
        return {"depth": 1 + image[:, :1], "normals": image}


def _slow_command(folder):
    """The command; an image is being written until the interrupt is known."""

    def slowly(path, array, *xmp, write=prediction.image_io.write_png):
        Path("began").touch()
        until(asked_to_stop)
        write(path, array, *xmp)

    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    prediction.image_io.write_png = slowly
    zoo.load_model = lambda *_: Quick()
    raise SystemExit(main(["run", "in", "--out", "out", "--device", "cpu", "--workers", "0"]))


def test_an_interrupt_is_answered_at_once(tmp_path):
    """An image is being written until the interrupt is known: it is finished, and those that wait are dropped."""
    images = [save(tmp_path / "in" / f"{i}.png", 20 * i) for i in range(8)]
    process = begin(_slow_command, tmp_path, log=tmp_path / "log")
    try:
        until(lambda: (tmp_path / "began").exists() or not process.is_alive())
        os.kill(process.pid, signal.SIGINT)
        until(lambda: not process.is_alive())
    finally:
        process.kill()
    told = [line.strip() for line in (tmp_path / "log").read_text().splitlines()]
    assert process.exitcode == 130, told
    assert told[-1] == "mtpano: interrupted; finished results are kept."
    assert any(line.startswith("stopping: what") for line in told)
    assert not any("Traceback" in line for line in told)
    assert names(tmp_path / "out") == ["0_depth.png"]
    assert run([tmp_path / "in"], Quick(), tmp_path / "out", progress=False).written == images


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


def test_an_existing_folder_keeps_what_it_holds(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    run([save(tmp_path / "a.png")], Brightness(), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert all(path.exists() for path in output_paths(tmp_path / "out", "a", ("depth",)).values())


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


def test_a_device_that_is_not_there_is_told_before_the_network_works(tmp_path):
    with pytest.raises(InputError, match=r"The device 'vulkan' cannot be used here: [^;]{,80}; choose cpu"):
        run([save(tmp_path / "a.png")], Brightness(), tmp_path / "out", progress=False, device="vulkan")
    assert not (tmp_path / "out").exists()


def test_what_was_predicted_before_an_error_is_written(tmp_path):
    class Breaks(Brightness):
        def forward(self, image):
            if len(self.batches) == 3:
                raise RuntimeError("shapes do not match")
            return super().forward(image)

    images = [save(tmp_path / f"{i}.png") for i in range(6)]
    with pytest.raises(RuntimeError, match="shapes"):
        run(images, Breaks(), tmp_path / "out", progress=False)
    assert names(tmp_path / "out") == sorted(f"{i}_{kind}" for i in range(3) for kind in KINDS)


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
        ({"stride": 2}, "stride is that of ply and glb: ask for one of them"),
    ],
)
def test_scenes_that_cannot_be_written_are_refused_at_once(options, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        run([save(tmp_path / "a.png")], Brightness(), tmp_path / "out", progress=False, **options)
    network = Brightness()
    network.tasks = ("normals",)
    with pytest.raises(InputError, match="need depth, which this network does not predict"):
        run([save(tmp_path / "a.png")], network, tmp_path / "out", progress=False, scenes=["ply", "glb"])
