"""Videos are made here, frame by frame in known grey levels, and their MP4 boxes are changed by hand where needed."""

import json
import os
import signal
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from brightness import Brightness
from PIL import Image
from processes import begin
from run_files import save
from waiting import until

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import decode_normals
from mtpano_zoo.image_io.video import Video
from mtpano_zoo.prediction import pipeline
from mtpano_zoo.prediction.folder import RECORDS, read_records
from mtpano_zoo.run import run
from mtpano_zoo.run.video import smoothed
from mtpano_zoo.viz import colour_depth

LEVELS = (20, 60, 100, 140, 180, 220)
HEIGHT, WIDTH = 32, 64


class WithNormals(Brightness):
    """Normals lean to the right by brightness."""

    tasks = ("depth", "normals")

    def forward(self, image):
        grey = image.mean(1, keepdim=True)
        return super().forward(image) | {"normals": torch.cat((grey, 0 * grey, -torch.ones_like(grey)), 1)}


def frame(level):
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def make(path, levels=LEVELS, rate=10.0, codec="mp4v", size=(WIDTH, HEIGHT)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size)
    for level in levels:
        writer.write(frame(level) if np.isscalar(level) else level)
    writer.release()
    return path


def inner(data, *kinds):
    """Offsets of nested boxes of an MP4 file, from the outermost in."""
    offsets, start = [], 0
    for kind in kinds:
        while data[start + 4 : start + 8] != kind:
            start += struct.unpack(">I", data[start : start + 4])[0]
        offsets.append(start)
        start += 8
    return offsets


def variable(path, first, second):
    """Give the first half of the frames one duration and the second another, in ticks of the file."""
    data = bytearray(path.read_bytes())
    boxes = inner(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
    stts = boxes[-1]
    count, ticks = struct.unpack(">II", data[stts + 16 : stts + 24])
    half = count // 2
    data[stts + 12 : stts + 24] = struct.pack(">IIIII", 2, half, ticks * first, count - half, ticks * second)
    for box in boxes:  # the index comes last, so nothing else moves
        data[box : box + 4] = struct.pack(">I", struct.unpack(">I", data[box : box + 4])[0] + 8)
    path.write_bytes(data.replace(b"edts", b"free"))  # which says how long it was


def index_first(path):
    """Move the index of an MP4 file to its front, and what it points at behind it."""
    data = bytearray(path.read_bytes())
    boxes = inner(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    moov, stco = boxes[0], boxes[-1]
    count = struct.unpack(">I", data[stco + 12 : stco + 16])[0]
    places = struct.unpack(f">{count}I", data[stco + 16 : stco + 16 + 4 * count])
    data[stco + 16 : stco + 16 + 4 * count] = struct.pack(f">{count}I", *(p + len(data) - moov for p in places))
    start = struct.unpack(">I", data[:4])[0]
    path.write_bytes(data[:start] + data[moov:] + data[start:moov])


def upside_down(path):
    """Write a rotation by 180 degrees into the track's matrix."""
    data = bytearray(path.read_bytes())
    header = inner(data, b"moov", b"trak", b"tkhd")[-1]
    matrix = header + (60 if data[header + 8] else 48)  # version 1 has longer times
    one = 0x10000
    data[matrix : matrix + 36] = struct.pack(">9i", -one, 0, 0, 0, -one, 0, WIDTH * one, HEIGHT * one, 0x40000000)
    path.write_bytes(data)


def depths(out, name="tour"):
    return [float(np.load(path).mean()) for path in sorted((out / name).glob("*_depth.npy"))]


def pictures(path):
    return [one.pixels for one in Video(path).frames()]


def files(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_frame_has_its_maps_and_every_map_its_video(tmp_path, batch_size):
    network, out = WithNormals(), tmp_path / "out"
    report = run([make(tmp_path / "tour.mp4")], network, out, progress=False, batch_size=batch_size)
    assert report.written == [tmp_path / "tour.mp4"] and report.exit_code == 0
    assert max(network.batches) == batch_size and sum(network.batches) == len(LEVELS)
    np.testing.assert_allclose(depths(out), [1 + 4 * level / 255 for level in LEVELS], atol=0.1)
    assert sorted(path.name for path in (out / "tour").iterdir()) == sorted(
        f"{n:06d}_{kind}" for n in range(len(LEVELS)) for kind in ("depth.npy", "depth.png", "normals.png")
    )
    video = Video(out / "tour_depth.mp4")
    assert [round(one.seconds, 3) for one in video.frames()] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    records = [json.loads(line) for line in (out / "manifest.images.jsonl").read_text().splitlines() if line]
    assert {one["name"]: one["seconds"] for one in records if "seconds" in one}["tour/000003"] == 0.3
    # One range of colours: nearest and farthest of all frames are the ends of the scale.
    low, high = min(depths(out)), max(depths(out))
    for shown, depth in zip(pictures(out / "tour_depth.mp4"), depths(out), strict=True):
        expected = colour_depth(np.full((1, 1), depth), low, high)[0, 0]
        assert np.abs(shown.mean((0, 1)) - expected).max() < 12  # of 255, after compression
    assert len(pictures(out / "tour_normals.mp4")) == len(LEVELS)


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been_stopped(tmp_path):
    tour = make(tmp_path / "tour.mp4")
    run([tour], WithNormals(), tmp_path / "whole", progress=False, smooth=0.2)
    out, network = tmp_path / "out", WithNormals()
    run([tour], network, out, progress=False, smooth=0.2)
    before = files(tmp_path / "whole")
    assert run([tour], network, out, progress=False, smooth=0.2).skipped == [tour]
    for name in ("tour/000002_depth.npy", "tour/000003_normals.png", "tour/000004_depth.png", "tour_depth.mp4"):
        (out / name).unlink()
    network.batches.clear()
    assert run([tour], network, out, progress=False, smooth=0.2, batch_size=2).written == [tour]
    assert network.batches == [2, 1]
    after = files(out)
    maps = [name for name in before if name.endswith(("npy", "png"))]
    assert len(maps) == 18 and all(before[name] == after[name] for name in maps)
    with pytest.raises(InputError, match=r"other settings.*smooth"):
        run([tour], network, out, progress=False)


def test_another_video_of_the_same_name_is_refused(tmp_path):
    out = tmp_path / "out"
    run([make(tmp_path / "tour.mp4")], WithNormals(), out, progress=False)
    make(tmp_path / "tour.mp4", LEVELS[::-1])
    before = files(out)
    report = run([tmp_path / "tour.mp4"], WithNormals(), out, progress=False)
    assert "another image with the same name" in report.failed[tmp_path / "tour.mp4"]
    assert files(out) == before
    run([tmp_path / "tour.mp4"], WithNormals(), out, progress=False, overwrite=True)
    assert depths(out)[0] > depths(out)[-1]


@pytest.mark.parametrize("network", [Brightness, WithNormals])
def test_a_shorter_video_leaves_no_frames_of_a_longer_one(tmp_path, network):
    """Also if another network makes all earlier results unfinished."""
    video, out = tmp_path / "tour.mp4", tmp_path / "out"
    run([make(video)], Brightness(), out, progress=False)
    make(video, LEVELS[:2])
    run([video], network(), out, progress=False, overwrite=True)
    run([video], network(), tmp_path / "new", progress=False)
    made, wanted = ({name for name in files(one) if "manifest" not in name} for one in (out, tmp_path / "new"))
    assert made == wanted
    assert run([video], network(), out, progress=False).skipped == [video]


def test_an_image_and_a_video_of_one_name_have_results_of_their_own(tmp_path):
    tour, out = make(tmp_path / "tour.mp4"), tmp_path / "out"
    photo = save(tmp_path / "tour.png")
    assert [run([one], Brightness(), out, progress=False).written for one in (tour, photo)] == [[tour], [photo]]
    assert [run([one], Brightness(), out, progress=False).skipped for one in (tour, photo)] == [[tour], [photo]]
    both = run([tmp_path / "tour.*"], Brightness(), tmp_path / "both", progress=False)
    assert {*both.written} == {tour, photo} and not both.failed


def test_a_frame_never_replaces_the_results_of_an_image(tmp_path):
    tour = make(tmp_path / "tour.mp4")
    save(tmp_path / "photos" / "tour" / "000001.png")
    with pytest.raises(InputError, match=r"results of .*000001\.png and of a frame of .*tour\.mp4 would have the same"):
        run([tmp_path / "photos", tour], Brightness(), tmp_path / "out", progress=False, overwrite=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tour_depth.mp4", "tour/000001_depth.png"])
def test_no_input_is_replaced_by_a_result_of_a_video(tmp_path, name):
    tour, other = make(tmp_path / "tour.mp4"), tmp_path / name
    make(other) if other.suffix == ".mp4" else save(other)
    with pytest.raises(InputError, match=rf"{name} is one of the images, and a result of .*tour\.mp4 would replace it"):
        run([tour, other], Brightness(), tmp_path, progress=False, overwrite=True)
    assert len(run([tour, other], Brightness(), tmp_path / "out", progress=False).written) == 2


@pytest.mark.parametrize(("name", "codec"), [("tour.avi", "MJPG"), ("tour.mkv", "mp4v"), ("tour.mp4", "mp4v")])
def test_of_a_video_that_is_cut_short_the_rest_is_kept(tmp_path, name, codec):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(20)]
    tour, out = make(tmp_path / name, noise, codec=codec), tmp_path / "out"
    if name == "tour.mp4":
        index_first(tour)
    video = Video(tour)
    assert len(list(video.frames())) == 20 and not video.cut_short
    tour.write_bytes(tour.read_bytes()[: tour.stat().st_size // 2])
    report = run([tour], WithNormals(), out, progress=False)
    assert report.exit_code == 1 and "\n" not in report.failed[tour]
    assert "cut short or damaged" in report.failed[tour] and "of 20 frames" in report.failed[tour]
    kept = len(depths(out))
    assert 3 <= kept <= 12 and len(pictures(out / "tour_depth.mp4")) == kept
    network = WithNormals()
    assert run([tour], network, out, progress=False).failed == report.failed and not network.batches


def test_what_cannot_be_decoded_is_called_what_it_is(tmp_path):
    tour = make(tmp_path / "tour.mp4")
    data = tour.read_bytes()
    wide = tmp_path / "wide.mp4"
    writer = cv2.VideoWriter(str(wide), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 32))
    writer.write(np.zeros((32, 96, 3), np.uint8))
    writer.release()
    for name, content, sentence in (
        ("index.mp4", data[: len(data) - 300], "is cut short, and its index"),
        ("noise.mp4", data[:40] + bytes(2000), "is cut short, and its index"),
        ("pointer.mp4", b"version https://git-lfs.github.com/spec/v1\n", "is not an image but a Git LFS pointer"),
        ("raw.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "is not an image but a raw image: develop it first"),
        ("none.mkv", data[:0] + b"\x1aE\xdf\xa3" + bytes(300), "is damaged, or not a video"),
        ("wide.mp4", wide.read_bytes(), "is 96 x 32 pixels, but a full 360"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        report = run([path], WithNormals(), tmp_path / "out", progress=False)
        assert sentence in report.failed[path] and "\n" not in report.failed[path], report.failed
    with pytest.raises(InputError, match=r"is 64 x 32 pixels, more than 1,000"):
        Video(tour, max_pixels=1000)
    with pytest.raises(InputError, match="smooth is a time"):
        run([tour], WithNormals(), tmp_path / "out", progress=False, smooth=-1)
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="smooth is for videos"):
        run([tmp_path / "a.png"], WithNormals(), tmp_path / "out", progress=False, smooth=1)


def test_the_rotation_tag_is_followed(tmp_path):
    picture = frame(40)
    picture[: HEIGHT // 2] = 200  # bright above
    for name in ("upright.mp4", "turned.mp4"):
        make(tmp_path / name, [picture] * 3)
    upside_down(tmp_path / "turned.mp4")
    run([tmp_path / "upright.mp4", tmp_path / "turned.mp4"], WithNormals(), tmp_path / "out", progress=False)
    above = {}
    for name in ("upright", "turned"):
        depth = np.load(tmp_path / "out" / name / "000001_depth.npy")
        above[name] = bool(depth[:8].mean() > depth[-8:].mean() + 1)
    assert above == {"upright": True, "turned": False}


@pytest.mark.parametrize(("dark", "axis"), [(0, 0), (0, 1), (2, 0), (2, 1)])
def test_a_dark_frame_of_a_stereo_video_is_one_eye_too(tmp_path, dark, axis):
    half = np.random.default_rng(0).integers(0, 150, (8, 8, 3), np.uint8)
    left = cv2.resize(np.concatenate((half, half[:, ::-1]), 1), (64, 64) if axis else (128, 32))  # its edges meet
    pair = np.concatenate((left, left + np.uint8(60)), axis)  # the right eye sees the same, but brighter
    frames = [pair * np.uint8(i != dark) for i in range(4)]
    tour, out = make(tmp_path / "tour.mp4", frames, size=(128, 64)), tmp_path / "out"
    assert run([tour], WithNormals(), out, progress=False, eye="right").written == [tour]
    brightness = (left.mean() + 60) / 255
    np.testing.assert_allclose(depths(out), [1 + 4 * (i != dark) * brightness for i in range(4)], atol=0.1)
    (out / "tour" / f"00000{dark}_depth.npy").unlink()  # a resumed run sees this frame only
    assert run([tour], WithNormals(), out, progress=False, eye="right").written == [tour]
    make(tour, [0 * pair] * 2, size=(128, 64))
    failed = run([tour], WithNormals(), tmp_path / "black", progress=False, eye="right").failed
    assert "tour.mp4 has no frame that is a stereo pair" in failed[tour]


def test_frames_of_a_vr180_video_are_hemispheres(tmp_path):
    half = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    half = cv2.resize(half, (64, 64))
    tour, out = make(tmp_path / "tour.mp4", [np.hstack((half, half))] * 2, size=(128, 64)), tmp_path / "out"
    assert run([tour], WithNormals(), out, progress=False, eye="left", fov=(180, 180)).written == [tour]
    shown = np.load(out / "tour" / "000001_depth.npy") > 0
    assert shown.shape == (64, 128) and shown[:, 32:96].all() and not shown[:, :32].any() and not shown[:, 96:].any()


def test_a_variable_frame_rate_is_kept(tmp_path):
    tour, out = make(tmp_path / "tour.mp4"), tmp_path / "out"
    variable(tour, 1, 3)
    assert [round(one.seconds, 3) for one in Video(tour).frames()] == [0, 0.1, 0.2, 0.3, 0.6, 0.9]
    run([tour], WithNormals(), out, progress=False, depth_range=(1, 5))
    shown = pictures(out / "tour_depth.mp4")
    expected = [0, 1, 2, 3, 3, 3, 4, 4, 4, 5]  # a tenth of a second each
    colours = [colour_depth(np.full((1, 1), depth), 1, 5)[0, 0].astype(int) for depth in depths(out)]
    nearest = [min(range(6), key=lambda n: np.abs(one.mean((0, 1)) - colours[n]).sum()) for one in shown]
    assert nearest == expected


def test_smoothing_is_the_exponential_filter_but_not_across_surfaces(tmp_path):
    levels = [100, 120, 120, 120, 120]
    for smooth, name in ((0.0, "raw"), (0.2, "smooth")):
        run([make(tmp_path / "tour.mp4", levels)], WithNormals(), tmp_path / name, progress=False, smooth=smooth)
    raw, found = depths(tmp_path / "raw"), depths(tmp_path / "smooth")
    weight, expected = np.exp(-0.1 / 0.2), raw[:1]
    for depth in raw[1:]:
        expected.append(weight * expected[-1] + (1 - weight) * depth)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert raw[0] < found[1] < raw[1]
    with Image.open(tmp_path / "smooth" / "tour" / "000001_normals.png") as image:
        between = decode_normals(np.asarray(image))[0, 0]
    assert 100 / 255 < -between[0] / between[2] < 120 / 255
    cut = smoothed({"depth": np.ones((1, 1), np.float32)}, {"depth": np.full((1, 1), 3, np.float32)}, 0.9)
    assert cut["depth"].item() == 3
    ahead, right = np.float32([[[0, 0, -1]]]), np.float32([[[1, 0, 0]]])
    assert np.array_equal(smoothed({"normals": ahead}, {"normals": right}, 0.9)["normals"], right)
    assert not smoothed({"normals": ahead}, {"normals": 0 * ahead}, 0.9)["normals"].any()


class AllTasks(WithNormals):
    tasks, classes = ("semseg", "depth", "normals", "valid", "disparity"), ("dark", "bright")
    palette = ((0, 0, 200), (200, 0, 0))

    def forward(self, image):
        grey = image.mean(1, keepdim=True)
        others = {"semseg": torch.cat((0.5 - grey, grey - 0.5), 1), "valid": grey - 0.2, "disparity": grey}
        return super().forward(image) | others


def test_the_command_takes_videos_beside_images(tmp_path, monkeypatch, capsys):
    make(tmp_path / "tour.mp4")
    Image.new("RGB", (64, 32), (90,) * 3).save(tmp_path / "room.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtpano_zoo.zoo.load_model", lambda *_: AllTasks())
    monkeypatch.setattr("mtpano_zoo.models.prepare_for_inference", lambda model, *_, **__: model)
    monkeypatch.setattr(pipeline, "doubts", lambda *_: [("it is odd",)])
    command = ["run", "tour.mp4", "room.png", "--out", "out", "--workers", "0", "--device", "cpu", "--no-panel"]
    assert main([*command, "--smooth", "0.2", "--json", "report.json"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["written"] == ["room.png", "tour.mp4"]
    assert report["doubted"] == {"room.png": "it is odd", "tour.mp4": "in some frames, it is odd"}
    videos = {path.name: pictures(path) for path in (tmp_path / "out").glob("*.mp4")}
    assert {name: len(frames) for name, frames in videos.items()} == {
        f"tour_{task}.mp4": len(LEVELS) for task in ("semseg", "depth", "normals", "disparity")
    }
    blue, red = videos["tour_semseg.mp4"][0].mean((0, 1)), videos["tour_semseg.mp4"][-1].mean((0, 1))
    assert blue.argmax() == 2 and red.argmax() == 0
    assert not np.load(tmp_path / "out" / "tour" / "000000_depth.npy").any()  # not valid
    assert videos["tour_depth.mp4"][0].max() < 30
    assert "2 written" in capsys.readouterr().out


def completed(out):
    """The names of the results in a folder that are recorded as complete."""
    return {name for name, digest in read_records(Path(out) / RECORDS).items() if digest is not None}


def _killed(folder):
    """Predict for a video, until the second file of the third frame is about to be written."""
    os.chdir(folder)
    count = 0

    def write(path, array, *xmp, write=pipeline.image_io.write_png):
        nonlocal count
        count += 1
        if count == 6:
            until(lambda: len(completed("out")) == 2)  # what is complete is recorded beside this thread
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, array, *xmp)

    pipeline.image_io.write_png = write
    run(["tour.mp4"], WithNormals(), "out", progress=False, smooth=0.2)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows")
def test_a_killed_run_loses_only_the_frame_that_was_being_written(tmp_path):
    tour = make(tmp_path / "tour.mp4")
    process = begin(_killed, tmp_path, log=tmp_path / "log")
    until(lambda: not process.is_alive())
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    out, network = tmp_path / "out", WithNormals()
    assert completed(out) == {"tour/000000", "tour/000001"}
    assert len(depths(out)) == 3 and not (out / "tour_depth.mp4").exists()
    (out / ".tour_depth.part.mp4").write_bytes(b"what a run leaves that is killed later")
    assert run([tour], network, out, progress=False, smooth=0.2).written == [tour]
    assert sum(network.batches) == len(LEVELS) - 2
    assert not [*out.glob(".*")]
    run([tour], WithNormals(), tmp_path / "whole", progress=False, smooth=0.2)
    assert depths(out) == depths(tmp_path / "whole")
