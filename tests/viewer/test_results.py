from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from everything import Everything, results_of_two
from PIL import Image

from mtpano_zoo.cli import main
from mtpano_zoo.commands.export_scene import export_scene
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import PoseAngles, gpano_xmp, write_png
from mtpano_zoo.image_io.video import write_video
from mtpano_zoo.prediction import Prediction, pipeline, predict
from mtpano_zoo.run import run
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.viewer.results import find_results, read_result


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of two panoramas, which are in the folder `photos` beside them."""
    return results_of_two(tmp_path)


def test_a_path_names_all_results_or_one(results: Path) -> None:
    assert find_results(results) == (results, ("a", "sub/b c"))
    for name in ("a", "sub/b c"):
        for ending in ("", "_depth.npy", "_semseg.png", "_normals.png"):
            assert find_results(results / f"{name}{ending}") == (results, (name,))
    assert find_results(results.parent / "photos" / "a.png") is None
    with pytest.raises(FileNotFoundError, match="no image and no result"):
        find_results(results / "c")
    with pytest.raises(InputError, match="photos has no results"):
        find_results(results.parent / "photos")


class Relative(Everything):
    tasks, classes = ("disparity",), ()

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"disparity": image.mean(1, keepdim=True) * self.scale}


def test_results_without_anything_that_the_page_shows(results: Path) -> None:
    photos, out = results.parent / "photos", results.parent / "relative"
    run([photos], Relative(), out, progress=False, panel=False)
    assert (out / "a_relative_disparity.npy").exists()
    for source in (out, out / "sub", out / "a", out / "sub" / "b c"):
        with pytest.raises(InputError, match=r"has no classes, distances in metres or normals, which is what the page"):
            find_results(source)
    with pytest.raises(FileNotFoundError, match="no image and no result"):
        find_results(out / "c")


def test_a_folder_below_the_results_has_their_manifest(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / "sub" / "manifest.json").write_text("{}")  # of something else
    for source in (results / "sub", results / "sub" / "b c", results / "sub" / "b c_semseg.png"):
        assert find_results(source) == (results, ("sub/b c",))
    monkeypatch.chdir(results / "sub")
    photos = results.parent / "photos"
    for source in (Path(), Path("b c"), Path("../sub")):
        found = find_results(source)
        assert found and found.names == ("sub/b c",)
        for image in (None, photos, photos / "sub", photos / "sub" / "b c.png"):
            assert read_result(found.folder, found.names[0], image).classes == ("ground", "sky")


@pytest.mark.parametrize("name", ["a", "sub/b c"])
@pytest.mark.parametrize("given", [None, "photos"])
def test_a_result_is_read_as_it_was_written(results: Path, name: str, given: str | None) -> None:
    found = read_result(results, name, given and results.parent / given)
    assert np.array_equal(found.depth, np.load(results / f"{name}_depth.npy"))
    assert np.array_equal(found.image, np.asarray(Image.open(results.parent / "photos" / f"{name}.png")))
    assert found.classes == ("ground", "sky") and set(np.unique(found.semseg)) == {0, 1}
    assert (found.semseg[:4] == 1).all()
    np.testing.assert_allclose(found.normals, -erp_rays(16, 32).numpy(), atol=0.01)
    assert found.up is None


@pytest.mark.parametrize("given", [None, "", "tour.mp4"])
def test_a_frame_of_a_video_is_read_with_its_picture(given: str | None, tmp_path: Path) -> None:
    videos, results = tmp_path / "videos", tmp_path / "results"
    videos.mkdir()
    write_video(videos / "tour.mp4", [np.full((64, 128, 3), level, np.uint8) for level in (60, 120, 180)], 10)
    run([videos / "tour.mp4"], Everything(), results, progress=False)
    assert find_results(results / "tour") == (results, tuple(f"tour/00000{i}" for i in range(3)))
    found = read_result(results, "tour/000001", None if given is None else videos / given)
    assert abs(found.image.mean() - 120) < 4
    assert np.array_equal(found.depth, np.load(results / "tour/000001_depth.npy"))
    (videos / "tour.mp4").write_bytes((videos / "tour.mp4").read_bytes() + b"changed")
    with pytest.raises(InputError, match=r"is not the image that|is not beside its results|is not in .*videos"):
        read_result(results, "tour/000001", None if given is None else videos / given)


@pytest.mark.parametrize("tagged", [False, True])
def test_up_of_a_saved_prediction_is_kept(tmp_path: Path, tagged: bool) -> None:
    """Its maps say what it was, and otherwise the panorama does."""
    file, estimated = PoseAngles(None, 20.0, -5.0), PoseAngles(None, -10.0, 30.0)
    write_png(tmp_path / "a.png", np.full((16, 32, 3), 90, np.uint8), gpano_xmp(16, 32, None, file))
    prediction = predict(Everything(), tmp_path / "a.png")
    assert isinstance(prediction, Prediction)
    if tagged:
        prediction = replace(prediction, up=estimated.up)
    prediction.save(tmp_path / "results", "a")
    if not tagged:
        for path in (tmp_path / "results").glob("*.png"):
            with Image.open(path) as image:
                image.load()
                image.info.clear()
                image.save(path)
    read = read_result(tmp_path / "results", "a")
    assert read.up == pytest.approx((estimated if tagged else file).up, abs=1e-5)


def test_panoramas_of_several_sources_are_found_below_one_folder(tmp_path: Path) -> None:
    """Their results are named as if each source had been the only one; other files of the same name do not count."""
    for i, name in enumerate(("room.png", "holiday/beach.png", "old/beach.png", "old/room.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 16), (40 * i + 40,) * 3).save(tmp_path / "photos" / name)
    photos, results = tmp_path / "photos", tmp_path / "results"
    run([photos / "holiday", photos / "old" / "room.png"], Everything(), results, progress=False, panel=False)
    for name, level in (("beach", 80), ("room", 160)):
        assert (read_result(results, name, photos).image == level).all()
    assert export_scene(results, photos, tmp_path / "scene") == 2
    for name, level in (("beach", 80), ("room", 160)):
        assert (np.asarray(Image.open(tmp_path / "scene" / "images" / f"{name}.png")) == level).all()
    (photos / "holiday" / "beach.png").unlink()
    with pytest.raises(InputError, match="photos has no panorama named beach"):
        read_result(results, "beach", photos)
    with pytest.raises(InputError, match=r"photos has no panorama named beach.*contains all its sources"):
        export_scene(results, photos, tmp_path / "other")


def test_another_or_no_panorama_is_refused(results: Path, tmp_path: Path) -> None:
    photos = results.parent / "photos"
    with pytest.raises(InputError, match="is not the image that"):
        read_result(results, "a", photos / "sub" / "b c.png")
    with pytest.raises(InputError, match="has no panorama named a"):
        read_result(results, "a", photos / "sub")
    Image.new("RGB", (32, 16)).save(photos / "a.png")
    with pytest.raises(InputError, match="not beside its results: name it"):
        read_result(results, "a")
    (results / "sub" / "b c_depth.npy").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"b c_depth.npy cannot be used"):
        read_result(results, "sub/b c")


def test_the_command_writes_a_page(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["view", str(results / "a"), "--html", str(tmp_path / "a.html")]
    assert main(command) == 0
    assert "a.html (0." in capsys.readouterr().out
    written = (tmp_path / "a.html").read_bytes()
    assert b"<title>a</title>" in written
    assert main(command) == 1
    assert "already exists" in capsys.readouterr().err
    assert main(["view", str(results), "--html", str(tmp_path / "b.html")]) == 1
    assert "has 2 results: name one, such as " in capsys.readouterr().err and not (tmp_path / "b.html").exists()


def test_no_input_is_replaced_and_no_option_ignored(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, depth = results.parent / "photos" / "a.png", results / "a_depth.npy"
    (tmp_path / "link.html").symlink_to(image)
    before, page = (image.read_bytes(), depth.read_bytes()), str(tmp_path / "a.html")
    for source, options, sentence in (
        (image, ["--html", str(image)], "a.png is an input of this command"),
        (image, ["--html", str(tmp_path / "link.html")], "link.html is an input of this command"),
        (results / "a", ["--html", str(depth)], "a_depth.npy must end in .html"),
        (results / "a", ["--html", page, "--fov", "360x90"], "--fov does not change the result"),
        (results / "a", ["--html", page, "--model", "mtpano-tiny.rooms"], "--model does not change the result"),
        (image, ["--html", page, "--image", str(image)], "--image names the panorama of a result"),
    ):
        assert main(["view", str(source), *options, "--overwrite"]) == 1
        assert sentence in capsys.readouterr().err
    assert (image.read_bytes(), depth.read_bytes()) == before


def test_an_image_runs_a_network_first(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtpano_zoo.zoo.load_model", lambda *_: Everything())
    image = str(results.parent / "photos" / "a.png")
    assert main(["view", image, "--force", "--html", str(tmp_path / "a.html")]) == 0
    assert "<title>a.png</title>" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_doubts_about_a_result_are_printed_until_it_is_made_again(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = {results.parent / "photos" / "a.png": results / "a"}
    command = ["view", str(results / "a"), "--html", str(tmp_path / "a.html"), "--overwrite"]
    for doubts, said in (((), ""), (("it is odd",), f"{results / 'a'}: it is odd\n"), ((), "")):
        monkeypatch.setattr(pipeline, "doubts", lambda *_, doubts=doubts: [doubts])
        run(photo, Everything(), results, progress=False, panel=False, overwrite=True)
        assert main(command) == 0
        assert capsys.readouterr().err == said
