import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from everything import Everything, results_of_two
from PIL import Image

from mtpano_zoo.cli import main
from mtpano_zoo.commands.export_scene import export_scene
from mtpano_zoo.errors import InputError
from mtpano_zoo.evaluation.predictors import FolderPredictor
from mtpano_zoo.image_io import Window, decode_normals, gpano_xmp, write_png
from mtpano_zoo.image_io.video import write_video
from mtpano_zoo.run import run
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.viewer.results import read_result


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Results and panoramas."""
    return results_of_two(tmp_path), tmp_path / "photos"


def poses(folder: Path, *names: str) -> Path:
    lines = [f"{i} 1 0 0 0 {i} 0 0 1 {name}" for i, name in enumerate(names)]
    (folder / "poses.txt").write_text("\n".join(lines))
    return folder / "poses.txt"


def test_results_become_a_scene(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, photos = folders
    given = poses(tmp_path, "a.jpg", "sub/b c.jpg", "other.jpg")
    assert export_scene(results, photos, tmp_path / "scene", poses=given, nadir=20.0) == 2
    root = tmp_path / "scene"
    rows = [row for row in (root / "sparse/0/images.txt").read_text().splitlines() if row and row[0] != "#"]
    assert rows == ["1 1 0 0 0 0 0 0 1 a.png", "2 1 0 0 0 1 0 0 1 sub/b_c.png"]
    assert np.array_equal(np.load(root / "depth/sub/b_c.npy"), np.load(results / "sub/b c_depth.npy"))
    normals = decode_normals(np.asarray(Image.open(root / "normals/a.png")))
    np.testing.assert_allclose(normals, -erp_rays(16, 32).numpy(), atol=0.02)
    sky = np.asarray(Image.open(root / "sky/a.png"))
    assert (sky[:4] == 255).all() and (sky[4:] == 0).all()
    assert (root / "masks/sub/b_c.png.png").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "poses.txt", "results", "scene"]


def test_a_folder_below_the_results_has_their_manifest(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, photos = folders
    for images in (photos, photos / "sub"):
        out = tmp_path / f"scene of {images.name}"
        assert export_scene(results / "sub", images, out) == 1
        sky = np.asarray(Image.open(out / "sky" / "b_c.png"))  # which class is the sky, the manifest says
        assert (sky[:4] == 255).all() and (sky[4:] == 0).all()
    shutil.copy(photos / "a.png", photos / "sub" / "b c.png")
    with pytest.raises(InputError, match="has changed since the results in"):
        export_scene(results / "sub", photos / "sub", tmp_path / "other")


def test_the_scene_may_be_the_working_folder(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scene").mkdir()
    monkeypatch.chdir(tmp_path / "scene")
    assert export_scene(*folders, ".") == 2
    assert Path("sparse/0/images.txt").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "results", "scene"]


def test_the_command_writes_views(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, photos = map(str, folders)
    command = ["export-scene", results, "--to", "colmap", "--images", photos, "--out", str(tmp_path / "scene")]
    assert main([*command, "--views", "6", "--size", "8"]) == 0
    assert capsys.readouterr().out == f"2 panoramas are in {tmp_path / 'scene'}, each as up to 6 views\n"
    assert len(list((tmp_path / "scene" / "images").rglob("*.png"))) == 12
    assert main(command) == 1
    assert capsys.readouterr().err == f"mtpano: {tmp_path / 'scene'} already exists: choose a new folder\n"


def test_a_name_that_is_not_utf_8_can_be_exported_and_viewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9")
    results, photos = tmp_path / "results", tmp_path / name
    photos.mkdir()
    Image.new("RGB", (32, 16), (90,) * 3).save(photos / f"{name}.png")
    run([photos], Everything(), results, progress=False, panel=False)
    out = tmp_path / f"{name} scene"
    assert main(["export-scene", str(results), "--to", "colmap", "--images", str(photos), "--out", str(out)]) == 0
    assert (out / "sparse/0/images.txt").read_bytes().rstrip().endswith(b" caf\xe9.png")
    assert (out / "images" / f"{name}.png").is_file()
    page = tmp_path / f"{name}.html"
    assert main(["view", str(results / name), "--html", str(page)]) == 0
    assert r"<title>caf\udce9</title>" in page.read_text(encoding="utf-8")
    assert r"caf\udce9 scene" in capsys.readouterr().out


@pytest.mark.parametrize("views", [None, 6])
def test_programs_that_end_a_name_at_a_space_find_every_file(views: int | None, tmp_path: Path) -> None:
    names = ["first floor/living\troom", "first floor/two  spaces", "no\u00a0break"]
    results, photos, out = tmp_path / "results", tmp_path / "photos", tmp_path / "scene"
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 16), (90,) * 3).save(photos / f"{name}.png")
    run([photos], Everything(), results, progress=False, panel=False)
    assert export_scene(results, photos, out, views=views) == 3
    lines = (out / "sparse/0/images.txt").read_text().splitlines()[1::2]
    read = {line.split()[9] for line in lines}
    assert {line.split(" ")[9] for line in lines} == read and len(read) == 3 * (views or 1)
    for folder, ending in (("images", ""), ("depth", ""), ("normals", ""), ("masks", ".png"), ("sky", "")):
        files = {path.relative_to(out / folder).as_posix() for path in (out / folder).rglob("*.png")}
        assert files == {f"{name}{ending}" for name in read}
    assert {path.with_suffix(".png").relative_to(out / "depth").as_posix() for path in out.rglob("*.npy")} == read


def test_poses_may_have_the_names_of_a_scene(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, photos = folders
    export_scene(results, photos, tmp_path / "scene", poses=poses(tmp_path, "a.jpg", "sub/b c.jpg", "sub/b_c.jpg"))
    written = (tmp_path / "scene/sparse/0/images.txt").read_bytes()
    assert b" 1 0 0 1 sub/b_c.png" in written  # the exact name counts
    export_scene(results, photos, tmp_path / "again", poses=tmp_path / "scene/sparse/0/images.txt")
    assert (tmp_path / "again/sparse/0/images.txt").read_bytes() == written


def test_names_that_coincide_without_spaces_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, photos = folders
    Image.new("RGB", (32, 16), (90,) * 3).save(photos / "sub" / "b_c.png")
    run([photos / "sub" / "b_c.png"], Everything(), results / "sub", progress=False, panel=False)
    with pytest.raises(InputError, match="has sub/b c and sub/b_c, which would both be sub/b_c in the scene: rename"):
        export_scene(results, photos, tmp_path / "scene")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "results"]


def test_results_of_videos_are_left_out(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, photos = folders
    write_video(tmp_path / "tour.mp4", [np.full((16, 32, 3), level, np.uint8) for level in (60, 120)], 10)
    run([tmp_path / "tour.mp4"], Everything(), results, progress=False)
    command = ["export-scene", str(results), "--to", "colmap", "--images", str(photos), "--out"]
    assert main([*command, str(tmp_path / "scene")]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("2 panoramas are in ")
    assert told.err == "2 results are left out, because they are those of frames of videos\n"
    with pytest.raises(InputError, match="results/tour has results of videos only: extract their frames"):
        export_scene(results / "tour", photos, tmp_path / "other")


def test_what_is_missing_or_wrong_is_named_and_nothing_is_left(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, photos = folders
    out = tmp_path / "scene"

    def refused(sentence: str, **options: Path) -> None:
        with pytest.raises(ValueError, match=sentence):
            export_scene(**{"results": results, "images": photos, "out": out} | options)
        assert not any("scene" in path.name for path in tmp_path.iterdir())

    refused("poses.txt has no pose for sub/b c, which is in", poses=poses(tmp_path, "a.jpg"))
    refused("nowhere is not a folder", images=tmp_path / "nowhere")
    refused("nowhere is not a folder", results=tmp_path / "nowhere")
    refused(r"photos has no distances \(\*_depth.npy\)", results=photos)
    (results / "a_depth.npy").rename(results / "z_depth.npy")
    refused("photos has no panorama named z, but .*results has results for it")
    (results / "z_depth.npy").rename(results / "a_depth.npy")
    before = (results / "a_depth.npy").read_bytes()
    for content, sentence in (
        (np.zeros((16, 32), np.float32), "a has no pixel with a distance"),
        (np.ones((8, 16), np.float32), r"a_depth.npy is \(8, 16\), but .*a.png is \(16, 32\)"),
    ):
        np.save(results / "a_depth.npy", content)
        refused(sentence)
    (results / "a_depth.npy").write_bytes(before[:300])
    refused("a_depth.npy cannot be used: it is truncated")
    (results / "a_depth.npy").write_bytes(before)
    Image.new("RGB", (16, 8)).save(results / "a_normals.png")
    refused(r"a_normals.png is \(8, 16\), but .*a.png is \(16, 32\)")
    shutil.copy(photos / "sub/b c.png", photos / "a.png")
    refused("a.png has changed since the results in .*results were made")
    with (results / "manifest.images.jsonl").open("a") as file:
        file.write('\n{"name": "a", "sha256": null}')
    refused("the results of .*results/a are unfinished, or older than .*manifest.json: make them again")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"options": None}, "it has no options"),
        ({"model": 5}, "it has no model"),
        ({"model": {"classes": 5}}, "model.classes cannot be 5"),
        ({"model": {"classes": [5]}}, r"model.classes cannot be \[5\]"),
        ({"options": {"fov": 5}}, "options.fov cannot be 5"),
        ({"options": {"fov": [90, "45"]}}, "options.fov cannot be"),
        ({"options": {"eye": "middle"}}, "options.eye cannot be 'middle'"),
        ({"options": {"vertical_offset": [1]}}, "options.vertical_offset cannot be"),
    ],
)
def test_every_reader_refuses_a_damaged_manifest(
    damage: dict[str, object], sentence: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    results, photos = folders
    path = results / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    for read in (
        lambda: export_scene(results, photos, tmp_path / "scene"),
        lambda: read_result(results, "a"),
        lambda: FolderPredictor(results),
    ):
        with pytest.raises(InputError, match=f"manifest.json is damaged: {sentence}"):
            read()
    path.write_text(path.read_text()[:-9])
    with pytest.raises(InputError, match=r"manifest\.json is not JSON"):
        FolderPredictor(results)


def test_no_reader_gives_old_results_the_classes_of_another_network(folders: tuple[Path, Path], tmp_path: Path) -> None:
    class Renamed(Everything):
        classes = ("sky", "ground")

    results, photos = folders
    run({photos / "a.png": results / "a"}, Renamed(), results, progress=False, panel=False, overwrite=True)
    assert read_result(results, "a").classes == FolderPredictor(results).classes == ("sky", "ground")
    assert FolderPredictor(results)(torch.zeros(3, 16, 32), "a").keys() == {"semseg", "depth", "normals"}
    for read in (
        lambda: export_scene(results, photos, tmp_path / "scene"),
        lambda: read_result(results, "sub/b c"),
        lambda: FolderPredictor(results)(torch.zeros(3, 16, 32), "sub/b c"),
    ):
        with pytest.raises(InputError, match=r"the results of .*b c are unfinished, or older than .*manifest\.json"):
            read()


@pytest.mark.parametrize("how", [{"crop": True}, {}, {"fov": (180, 90), "crop": True}])
def test_a_crop_lies_where_it_belongs(how: dict[str, object], tmp_path: Path) -> None:
    """A crop is 2:1 too: squeezed onto the whole sphere, its points would lie in wrong directions."""
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(1, 256, (8, 16, 3), np.uint8)
    window = Window(4, 8, 8, 16, 16, 32)
    write_png(tmp_path / "photos/part.png", pixels, "" if "fov" in how else gpano_xmp(8, 16, window, None))
    run([tmp_path / "photos"], Everything(), tmp_path / "results", progress=False, panel=False, **how)
    assert np.load(tmp_path / "results/part_depth.npy").shape == ((8, 16) if how else (16, 32))
    export_scene(tmp_path / "results", tmp_path / "photos", tmp_path / "scene")
    true = np.zeros((16, 32), np.float32)
    true[window.slices] = 1 + 4 / 255 * pixels.mean(2)
    np.testing.assert_allclose(np.load(tmp_path / "scene/depth/part.npy"), true, rtol=1e-5)
    inside = true > 0
    for kind, name in (("masks", "part.png.png"), ("images", "part.png")):
        found = np.asarray(Image.open(tmp_path / "scene" / kind / name)).reshape(16, 32, -1)
        assert np.array_equal(found.any(-1), inside)
    assert not (np.asarray(Image.open(tmp_path / "scene/sky/part.png")) > 0)[~inside].any()
    normals = decode_normals(np.asarray(Image.open(tmp_path / "scene/normals/part.png")))
    np.testing.assert_allclose(normals, -erp_rays(16, 32).numpy() * inside[..., None], atol=0.02)
    export_scene(tmp_path / "results", tmp_path / "photos", tmp_path / "views", views=6, size=8)
    views = sorted(path.name for path in (tmp_path / "views/images").iterdir())
    assert views == ["part_00.png", "part_01.png", "part_03.png", "part_04.png", "part_05.png"]  # not the one behind


def test_distances_are_brought_to_one_scale(tmp_path: Path) -> None:
    """Two panoramas on the axis of a round room, whose networks were off by known factors; one is a crop."""
    results, photos = tmp_path / "results", tmp_path / "photos"
    photos.mkdir()
    results.mkdir()
    # Inside a sphere of 3 m: |c + d r| = 3 for the camera at c.
    rays, places = erp_rays(32, 64).double().numpy(), {"a 1": (0.0, 0.0, 0.5), "b": (0.8, 0.3, -0.6)}
    true = {}
    for (name, place), factor in zip(places.items(), (0.8, 1.2), strict=True):
        along = rays @ place
        true[name] = -along + np.sqrt(along**2 + 9 - np.dot(place, place))
        window = Window(8, 0, 22, 64, 32, 64) if name == "b" else Window(0, 0, 32, 64, 32, 64)
        seen = true[name][window.slices]
        np.save(results / f"{name}_depth.npy", (factor * seen).astype(np.float32))
        write_png(photos / f"{name}.png", np.zeros((*seen.shape, 3), np.uint8), gpano_xmp(*seen.shape, window, None))
    lines = [f"1 1 0 0 0 {-x} {-y} {-z} 1 {name}.png\n" for name, (x, y, z) in places.items()]
    (tmp_path / "poses.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match="one scale for all panoramas needs their poses"):
        export_scene(results, photos, tmp_path / "scene", one_scale=True)
    export_scene(results, photos, tmp_path / "scene", poses=tmp_path / "poses.txt", one_scale=True)
    for name, depth in true.items():
        found = np.load(tmp_path / "scene" / "depth" / f"{name.replace(' ', '_')}.npy")
        np.testing.assert_allclose(found[8:30], depth[8:30], rtol=0.01)
        assert (found > 0).any(1).sum() == {"a 1": 32, "b": 22}[name]
    assert list(json.loads((tmp_path / "scene" / "scales.json").read_text())) == ["a 1", "b"]
