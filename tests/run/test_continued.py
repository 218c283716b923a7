"""`mtpano run` is interrupted and goes on, and meets folders that hold something already."""

import hashlib
import json
import os
import re
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness
from PIL import Image
from processes import begin
from run_files import KINDS, names, save
from torch import nn
from waiting import until

from mtpano_zoo import zoo
from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io.video import write_video
from mtpano_zoo.machine.workers import asked_to_stop
from mtpano_zoo.manifest import MANIFEST, describe_model
from mtpano_zoo.models import prepare_for_inference
from mtpano_zoo.prediction import output_paths, pipeline
from mtpano_zoo.prediction.folder import RECORDS
from mtpano_zoo.run import output as writing
from mtpano_zoo.run import run


def read_png(path):
    with Image.open(path) as image:
        return np.asarray(image)


def depth_of(folder, name):
    return float(np.load(folder / f"{name}_depth.npy").mean())


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
    (Brightness(), {"depth_range": (0.0, 20.0)}, "options.depth_range was None, is [0.0, 20.0]"),
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


def test_a_run_with_a_field_of_view_goes_on(tmp_path):
    first, second = save(tmp_path / "a.png"), save(tmp_path / "b.png")
    run([first], Brightness(), tmp_path / "out", progress=False, fov=(360.0, 180.0))
    report = run([first, second], Brightness(), tmp_path / "out", progress=False, fov=(360.0, 180.0))
    assert (report.skipped, report.written) == ([first], [second])


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
        with pytest.raises(InputError, match=r"manifest\.json (is not a manifest|has the format).*another folder"):
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


class Quick(nn.Module):
    tasks, classes, input_size = ("depth", "normals"), (), (16, 32)

    def forward(self, image):
        return {"depth": 1 + image[:, :1], "normals": image}


def _slow_command(folder):
    """The command; an image is being written until the interrupt is known."""

    def slowly(path, array, *xmp, write=pipeline.image_io.write_png):
        Path("began").touch()
        until(asked_to_stop)
        write(path, array, *xmp)

    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    pipeline.image_io.write_png = slowly
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


def test_smoothing_concerns_no_image(tmp_path):
    """Whichever comes first, images or videos: only videos with another smoothing are refused."""
    photo, tour = save(tmp_path / "a.png"), tmp_path / "tour.mp4"
    write_video(tour, [np.full((16, 32, 3), level, np.uint8) for level in (60, 90)], 10)
    for order in ((photo, tour), (tour, photo)):
        out = tmp_path / f"{order[0].stem} first"
        for _ in range(2):
            for one in order:
                report = run([one], Brightness(), out, progress=False, smooth=0.2 * (one == tour))
                assert not report.failed
        assert report.skipped == [order[1]]
        assert json.loads((out / MANIFEST).read_text())["options"]["smooth"] == 0.2
        assert run([photo, tour], Brightness(), out, progress=False, smooth=0.2).skipped == [photo, tour]
        with pytest.raises(InputError, match="other settings"):
            run([photo, tour], Brightness(), out, progress=False)
        with pytest.raises(InputError, match="other settings"):
            run([photo], Brightness(), out, progress=False, precision="bfloat16")


def test_smoothing_of_a_video_that_an_earlier_version_left_unfinished(tmp_path):
    """It recorded frames, but the video itself only at the end."""
    write_video(tmp_path / "tour.mp4", [np.full((16, 32, 3), level, np.uint8) for level in (60, 90)], 10)
    options = {"out": tmp_path / "out", "progress": False}
    run([tmp_path / "tour.mp4"], Brightness(), **options, smooth=0.2)
    records = tmp_path / "out" / RECORDS
    lines = [line for line in records.read_text().splitlines() if '"tour/000000"' in line]
    records.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"other settings \(options\.smooth was 0\.2"):
        run([tmp_path / "tour.mp4"], Brightness(), **options)


def test_an_existing_folder_keeps_what_it_holds(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    run([save(tmp_path / "a.png")], Brightness(), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert all(path.exists() for path in output_paths(tmp_path / "out", "a", ("depth",)).values())


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
