"""Files as cameras and sites give them: formats, diagnoses, and what only looks 2:1."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fake_exr import exr
from fake_files import room_maps
from PIL import Image, ImageCms, features
from tagged_files import Height, tagged

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import find_images, search_images
from mtpano_zoo.image_io import Panorama, PoseAngles, Window, load_panorama
from mtpano_zoo.image_io.doubts import doubt_about, stereo_layout
from mtpano_zoo.image_io.floating import tone_mapped
from mtpano_zoo.prediction import predict
from mtpano_zoo.run import run
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.sphere import perspective_rays, rotation_matrix, sample


@pytest.fixture
def room():
    return room_maps(1, 128, 256)["image"]


# Formats


@pytest.mark.parametrize("name", [
    "a.jfif", "a.jpe", "a.insp", "a.jpg", "a.png", "a.webp", "a.tif", "a.bmp", "a.gif", "a.jp2", "a.avif",
])  # fmt: skip
def test_every_format_is_read_by_its_name_and_in_its_folder(tmp_path, room, name):
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    kind = "JPEG" if (name[2] == "j" and name != "a.jp2") or name == "a.insp" else None
    Image.fromarray(room).save(tmp_path / name, kind, **({"quality": 95} if kind else {}))
    assert np.abs(load_panorama(tmp_path / name).pixels.astype(int) - room).mean() < 6
    assert list(find_images([tmp_path], Path("out"))) == [tmp_path / name]


def linear(pixels):
    values = pixels / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


@pytest.mark.parametrize("kind", ["hdr", "exr", "tif"])
@pytest.mark.parametrize("exposure", [1, 40])
def test_light_is_tone_mapped_whatever_its_exposure(tmp_path, room, kind, exposure):
    light = linear(room) * exposure
    encoded = exr(R=light[..., 0], G=light[..., 1], B=light[..., 2])
    (tmp_path / f"a.{kind}").write_bytes(
        encoded if kind == "exr" else cv2.imencode(f".{kind}", light[..., ::-1])[1].tobytes()
    )
    read = load_panorama(tmp_path / f"a.{kind}").pixels
    assert 60 < read.mean() < 160
    # Tone mapping keeps what is brighter than what.
    grey, expected = read.mean(2).ravel()[::7], room.mean(2).ravel()[::7]
    assert np.corrcoef(grey, expected)[0, 1] > 0.95


def test_the_tone_curve_is_the_published_one():
    light = np.full((10, 20, 3), 0.18, np.float32)
    light[0, 0] = np.nan, np.inf, -1
    light[1, 1] = 0.09
    mapped = tone_mapped(light)
    assert mapped[0, 0].tolist() == [0, 0, 0]
    # Below the average by a factor of two, with exposure 1: L (1 + L) / (1 + L) = L.
    average = np.exp(np.log(np.array([0.18] * 198 + [0.09])).mean())
    value = 0.09 * 0.18 / average
    assert abs(mapped[1, 1, 0] - 255 * (1.055 * value ** (1 / 2.4) - 0.055)) <= 0.51


@pytest.mark.parametrize("kind", ["hdr", "exr", "tif"])
def test_truncated_light_says_so(tmp_path, room, kind, capfd):
    light = linear(room)
    data = exr(R=light[..., 0]) if kind == "exr" else cv2.imencode(f".{kind}", light)[1].tobytes()
    (tmp_path / f"a.{kind}").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="truncated"):
        load_panorama(tmp_path / f"a.{kind}")
    (tmp_path / f"a.{kind}").write_bytes(data)
    with pytest.raises(InputError, match="more than 1,000"):
        load_panorama(tmp_path / f"a.{kind}", max_pixels=1000)


def test_colours_of_another_profile_become_srgb(tmp_path):
    # A profile whose primaries are swapped: what it calls red is green.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    profile = bytes(profile).replace(b"s\0R\0G\0B", b"t\0R\0G\0B")
    Image.new("RGB", (128, 64), (200, 100, 50)).save(tmp_path / "a.png", icc_profile=profile)
    assert np.abs(load_panorama(tmp_path / "a.png").pixels[0, 0].astype(int) - (100, 200, 50)).max() <= 2
    Image.new("RGB", (128, 64), (200, 100, 50)).save(tmp_path / "b.png", icc_profile=b"damaged")
    assert load_panorama(tmp_path / "b.png").pixels[0, 0].tolist() == [200, 100, 50]


def test_transparent_pixels_have_no_value(tmp_path, room):
    alpha = np.full(room.shape[:2], 255, np.uint8)
    alpha[20:50, 30:90] = 0
    Image.fromarray(np.dstack((room, alpha))).save(tmp_path / "a.png")
    result = predict(Height(), tmp_path / "a.png")
    assert np.array_equal(result.depth == 0, alpha == 0) and np.array_equal(result.semseg == 255, alpha == 0)
    assert np.array_equal((result.normals == 0).all(2), alpha == 0)


@pytest.mark.parametrize(("data", "said"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 5\n", "a Git LFS pointer.*git lfs pull"),
    (b"\n<!DOCTYPE html><html><title>404</title>", r"a web page \(HTML\).*download"),
    (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "an error message of a server"),
    (b"", "an empty file"),
    (bytes(500), "full of zeros"),
    (b"/annex/objects/SHA256E-s1--00.jpg\n", "a git-annex pointer"),
    (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
    (b"%PDF-1.7", "a PDF document"),
])  # fmt: skip
def test_what_is_no_image_is_called_what_it_is(tmp_path, data, said):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.jpg is not an image but {said}") as caught:
        load_panorama(tmp_path / "a.jpg")
    assert "\n" not in str(caught.value)


def test_heic_needs_its_extra(tmp_path, monkeypatch):
    data = (Path(__file__).parent / "room.heic").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data)
    monkeypatch.setattr("mtpano_zoo.image_io.decoding._formats", lambda _: ["JPEG", "PNG"])
    with pytest.raises(InputError, match=r"a\.jpg is a HEIC image: install .*mtpano_zoo\[heic\]"):
        load_panorama(tmp_path / "a.jpg")


def test_heic_is_read_with_its_extra(tmp_path, room):
    pytest.importorskip("pi_heif")
    read = load_panorama(Path(__file__).parent / "room.heic").pixels
    assert np.abs(read.astype(int) - room).mean() < 8
    data = (Path(__file__).parent / "room.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="truncated"):
        load_panorama(tmp_path / "a.heic")


# What is no panorama


@pytest.fixture
def photo(room):
    rays = perspective_rays(128, 256, fov=75.0, rotation=rotation_matrix(40.0, 0.0, 0.0))
    return sample(torch.from_numpy(room).permute(2, 0, 1)[None].float(), rays[None])[0].permute(1, 2, 0).byte().numpy()


def fisheyes(room):
    rows, columns = np.indices((128, 128)) - 63.5
    circle = (np.hypot(rows, columns) < 63)[..., None]
    return np.concatenate([room[:, :128] * circle, room[:, 128:] * circle], 1).astype(np.uint8)


def test_two_to_one_images_that_are_no_panoramas_are_told(tmp_path, room, photo):
    beside = np.concatenate([cv2.resize(room, (128, 128)), cv2.resize(np.roll(room, 2, 1), (128, 128))], 1)
    stacked = np.concatenate([cv2.resize(room, (256, 64)), cv2.resize(np.roll(room, 2, 1), (256, 64))], 0)
    margin = room.copy()
    margin[:, 200:] = 0
    wrong = {"fisheye": fisheyes(room), "left and right halves": beside, "upper and lower": stacked, "margin": margin}
    wrong |= {"edges do not meet": photo, "left and right edges": cv2.resize(room[32:96, :128], (256, 128))}
    for said, pixels in wrong.items():
        Image.fromarray(pixels).save(tmp_path / "a.png")
        with pytest.raises(InputError, match=rf"a\.png is 2:1 but .*{said}.*--force"):
            load_panorama(tmp_path / "a.png")
        assert np.array_equal(load_panorama(tmp_path / "a.png", force=True).pixels, pixels)
    assert stereo_layout(beside) == "beside" and stereo_layout(stacked) == "stacked" and stereo_layout(room) is None


def test_panoramas_are_not_doubted(room):
    for pixels in (room, np.roll(room, 77, 1), room[:, ::-1], np.zeros_like(room), np.full_like(room, 200)):
        assert doubt_about(pixels) is None
    black = room.copy()
    black[:24] = black[-30:] = 0  # poles that were not taken
    assert doubt_about(black) is None
    padded = np.zeros_like(room)
    padded[:, 40:200] = room[:, 40:200]  # a crop, padded with black
    assert doubt_about(padded) is None
    for index in range(2, 8):
        other = render([sample_room(0, "test", index)], 64, 128)["image"][0].permute(1, 2, 0)
        assert doubt_about((other * 255).byte().numpy()) is None


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("squeezed", [False, True])
def test_one_eye_of_a_stereo_pair(tmp_path, room, axis, squeezed):
    other = np.roll(room, 2, 1)
    pair = np.concatenate([room, other], axis)
    pair = cv2.resize(pair, (256, 128), interpolation=cv2.INTER_AREA) if squeezed else pair
    Image.fromarray(pair).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--eye left"):
        load_panorama(tmp_path / "a.png")
    for eye, expected in (("left", room), ("right", other)):
        pixels = load_panorama(tmp_path / "a.png", eye=eye).pixels
        assert pixels.shape[1] == 2 * pixels.shape[0]
        expected = cv2.resize(expected, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(pixels.astype(int) - expected).mean() < (4 if squeezed else 1e-9)
    Image.fromarray(room).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="is not a stereo pair"):
        load_panorama(tmp_path / "b.png", eye="left")


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_eye_keeps_the_pose_of_the_pair(tmp_path, room, squeezed):
    pair = np.concatenate([room, room])[:: 1 + squeezed]
    pose = PoseAngles(75.5, 10, -4)
    tagged(tmp_path / "a.png", pair, Window(0, 0, 512, 512, 512, 1024), pose)  # sizes of the pair mean nothing
    eye = load_panorama(tmp_path / "a.png", eye="right")
    assert eye.pose == pose and eye.window is None
    assert load_panorama(tmp_path / "a.png", eye="right", ignore_tags=True).pose is None


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("squeezed", [False, True])
def test_transparent_pixels_of_one_eye_have_no_value(tmp_path, room, axis, squeezed):
    alpha = np.full(room.shape[:2], 255, np.uint8)
    alpha[20:50, 30:90] = 0
    other = np.roll(alpha, 4, 1)
    pair = np.concatenate([np.dstack((room, alpha)), np.dstack((room, other))], axis)
    if squeezed:
        pair = pair[:: 2 - axis, :: 1 + axis]
    Image.fromarray(pair).save(tmp_path / "a.png")
    for eye, expected in (("left", alpha), ("right", other)):
        seen = load_panorama(tmp_path / "a.png", eye=eye).seen.astype(np.uint8)
        assert np.array_equal(cv2.resize(seen, (256, 128), interpolation=cv2.INTER_NEAREST), expected > 0)
    pair[..., 3] = 255
    Image.fromarray(pair).save(tmp_path / "a.png")
    assert load_panorama(tmp_path / "a.png", eye="right").seen is None


@pytest.mark.parametrize(("axis", "fov", "part"), [
    (1, (180, 180), np.s_[:, 64:192]), (0, (360, 90), np.s_[32:96]),
])  # fmt: skip
def test_halves_that_fit_the_field_of_view_are_not_stretched(tmp_path, room, axis, fov, part):
    """Files of VR180 cameras are 2:1, but each of their halves is square and shows a hemisphere."""
    other = np.roll(room, 2, 1)
    Image.fromarray(np.concatenate((room[part], other[part]), axis)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--eye left"):
        load_panorama(tmp_path / "a.png")
    for eye, whole in (("left", room), ("right", other)):
        panorama = load_panorama(tmp_path / "a.png", eye=eye, fov=fov)
        shown = np.zeros(room.shape[:2], bool)
        shown[part] = True
        assert np.array_equal(panorama.seen, shown)
        assert np.array_equal(panorama.pixels, whole * shown[..., None])
    squeezed = np.concatenate((room, other), axis)[:: 2 - axis, :: 1 + axis]
    Image.fromarray(squeezed).save(tmp_path / "b.png")
    whole = load_panorama(tmp_path / "b.png", eye="left", fov=(360, 180))
    assert np.array_equal(whole.pixels, load_panorama(tmp_path / "b.png", eye="left").pixels)


def test_the_advice_for_an_open_half_states_its_own_shape(tmp_path, room):
    half = room[:, 96:224]
    Image.fromarray(np.hstack((half, half))).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"do not meet.*--fov 180x180"):
        load_panorama(tmp_path / "a.png", eye="left")


# Sources and the command line


def test_nothing_has_a_value_near_the_nadir(room):
    result = predict(Height(), room, mask_nadir=20)
    below = (128 - np.arange(128) - 0.5) / 128 * 180 < 20
    assert np.array_equal((result.depth == 0).all(1), below) and np.array_equal((result.semseg == 255).all(1), below)
    assert predict(Height(), Panorama(room)).depth.all()
    for wrong in (100, "none", None):
        with pytest.raises(InputError, match="mask_nadir"):
            predict(Height(), room, mask_nadir=wrong)


def test_a_disc_below_the_camera_has_no_values(room):
    """Its border is found within a row, and one degree more is left out; without a disc, nothing is."""
    covered = room.copy()
    covered[112:] = (250, 0, 250)  # 22.5 degrees
    seen = (predict(Height(), Panorama(covered), mask_nadir="auto").depth > 0).all(1)
    assert seen[:110].all() and not seen[112:].any()
    assert predict(Height(), Panorama(room), mask_nadir="auto").depth.all()
    shown = np.repeat(np.arange(128)[:, None] < 118, 256, 1)  # a crop that ends inside the disc, or without one
    for pixels, last in ((covered, 110), (room, 118)):
        seen = (predict(Height(), Panorama(pixels * shown[..., None], shown), mask_nadir="auto").depth > 0).all(1)
        assert seen[:last].all() and not seen[min(last + 2, 118) :].any()


def test_patterns_lists_and_links(tmp_path, monkeypatch):
    for name in ("tour/a.jpg", "tour/deep/b.PNG", "tour/deep/notes.txt", "tour/.hidden/c.png", "other/[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "tour/deep/again").symlink_to(tmp_path / "tour")
    (tmp_path / "tour/linked").symlink_to(tmp_path / "other")
    monkeypatch.chdir(tmp_path)

    def found(*sources):
        return [path.as_posix() for path in find_images(sources, Path("out"))]

    assert found("tour") == ["tour/a.jpg", "tour/deep/b.PNG", "tour/linked/[1].jpg"]
    assert found("tour/*") == ["tour/a.jpg"] and found("other/[1].jpg") == ["other/[1].jpg"]
    assert found("tour/**/*.PNG") == ["tour/deep/b.PNG"]
    assert list(search_images(["tour/**"], Path("out")).passed_over) == [Path("tour/deep/notes.txt")]
    Path("tour/deep/out").mkdir()
    Path("tour/deep/out/b_normals.PNG").touch()  # of an earlier run
    assert list(find_images(["tour/**/*.PNG"], Path("tour/deep/out"))) == [Path("tour/deep/b.PNG")]
    assert len(find_images(["tour/**/*.PNG"], Path())) == 2
    Path("list.txt").write_text("# two\ntour/a.jpg\n\nother/*.jpg\n")
    assert found("@list.txt") == ["tour/a.jpg", "other/[1].jpg"]
    Path("empty.txt").write_text("\n")
    Path("outer.txt").write_text("tour/a.jpg\n@list.txt\n")
    refused = {"no/*.jpg": "nothing matches", "@empty.txt": "names no image", "@outer.txt": "names the list @list.txt"}
    for source, said in refused.items():
        with pytest.raises(InputError, match=said):
            found(source)


def test_the_command_writes_what_became_of_every_file(tmp_path, monkeypatch, capsys, room):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    window = Window(40, 60, 64, 128, 128, 256)
    tagged(photos / "crop.jpg", room[window.slices], window, PoseAngles(30, 0, 0))
    Image.fromarray(fisheyes(room)).save(photos / "pair.insp", "JPEG")
    (photos / "clip.mp4").touch()
    monkeypatch.setattr("mtpano_zoo.zoo.load_model", lambda *_: Height())
    monkeypatch.setattr("mtpano_zoo.models.prepare_for_inference", lambda model, *_, **__: model)
    arguments = ["run", str(photos), "--out", str(out), "--no-panel", "--workers", "0", "--crop", "--device", "cpu"]
    assert main([*arguments, "--json", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["written"] == [str(photos / "crop.jpg")]
    assert "fisheye" in report["failed"][str(photos / "pair.insp")]
    assert "video" in report["passed_over"][str(photos / "clip.mp4")]
    assert "clip.mp4: a video" in capsys.readouterr().out
    assert np.load(out / "crop_depth.npy").shape == (64, 128)
    record = json.loads((out / "manifest.images.jsonl").read_text().splitlines()[-1])
    assert record["heading"] == 30 and record["window"]["top"] == 40
    assert main([*arguments, "--force"]) == 0
    (photos / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert main(["run", str(photos / "*"), *arguments[2:], "--force", "--json", str(tmp_path / "report.json")]) == 1
    assert list(json.loads((tmp_path / "report.json").read_text())["failed"]) == [str(photos / "clip.mp4")]
    assert main(["run", str(photos), "--out", str(out), "--fov", "wide"]) == 1


def test_python_does_the_same_as_the_command(tmp_path, room):
    path = tagged(tmp_path / "a.png", room[40:104, 60:188], Window(40, 60, 64, 128, 128, 256))
    run([path], Height(), tmp_path / "out", progress=False, panel=False, mask_nadir=50)
    expected = predict(Height(), path, mask_nadir=50).depth
    assert np.array_equal(np.load(tmp_path / "out/a_depth.npy"), expected) and (expected == 0).any()
