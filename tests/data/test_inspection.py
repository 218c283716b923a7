"""Every kind of defect, put into a miniature of Structured3D, is found, and nothing else is."""

import io
import json
import os

import fake_matterport3d
import fake_structured3d
import numpy as np
import pytest
from fake_files import png, random_rgb, room_maps, write, write_zip
from PIL import Image
from tagged_files import tagged

from mtpano_zoo.cli import main
from mtpano_zoo.data import FolderDataModule, RoomsDataModule, Structured3DDataModule, ZInDDataModule
from mtpano_zoo.data.inspection import ERRORS, SUSPICIONS, judge, verify
from mtpano_zoo.data.plotting import plot_samples
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Window

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")

FOLDER = "Structured3D/scene_00000/2D_rendering/485142/panorama/full"
IMAGE, SEMSEG, DEPTH, NORMALS = (f"{FOLDER}/{name}.png" for name in ("rgb_rawlight", "semantic", "depth", "normal"))
SAMPLE = "scene_00000_485142_full_raw"


@pytest.fixture(scope="module")
def content():
    return fake_structured3d.files(furnishings=("full",), lights=("raw",))


def pixels(data):
    return np.array(Image.open(io.BytesIO(data)))


def other_frame(data):
    return png(np.ascontiguousarray(pixels(data)[..., [0, 2, 1]]))


def shift(data):
    """Turn the normals with the camera by a quarter, as nobody did with the depth."""
    return png(np.roll(pixels(data), 16, 1))


# File, what happens to it (None: it goes), and the kinds that it shows up as.
DEFECTS = {
    "a missing label": (DEPTH, None, ["missing"]),
    "a truncated image": (IMAGE, lambda data: data[: len(data) // 2], ["unreadable"]),
    "an empty file": (DEPTH, lambda data: b"", ["unreadable"]),
    "text for a label": (SEMSEG, lambda data: b"<html>not found</html>", ["unreadable"]),
    "a colour label": (SEMSEG, lambda data: png(np.zeros((32, 64, 3), np.uint8)), ["unreadable"]),
    "an unknown class": (SEMSEG, lambda data: png(np.full((32, 64), 77, np.uint8)), ["unreadable"]),
    "depth of 8 bits": (DEPTH, lambda data: png(np.full((32, 64), 9, np.uint8)), ["unreadable"]),
    "a label of half the size": (SEMSEG, lambda data: png(pixels(data)[::2, ::2]), ["size"]),
    "a square image": (IMAGE, lambda data: png(pixels(data)[:, :32]), ["size"]),
    "a black image": (IMAGE, lambda data: png(np.zeros((32, 64, 3), np.uint8)), ["image"]),
    "no labels": (SEMSEG, lambda data: png(np.zeros((32, 64), np.uint8)), ["unlabelled"]),
    "no depth": (DEPTH, lambda data: png(np.zeros((32, 64), np.uint16)), ["unlabelled"]),
    "no normals": (NORMALS, lambda data: png(np.full((32, 64, 3), 128, np.uint8)), ["unlabelled"]),
    "depth in centimetres": (DEPTH, lambda data: png((pixels(data) // 40).astype(np.uint16)), ["depth"]),
    "normals away": (NORMALS, lambda data: png(255 - pixels(data)), ["facing", "geometry"]),
    "normals in another frame": (NORMALS, other_frame, ["facing", "geometry"]),
    "normals of another view": (NORMALS, shift, ["facing", "geometry"]),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found_and_nothing_else(defect, tmp_path, content):
    name, change, kinds = DEFECTS[defect]
    files = {key: data for key, data in content.items() if key != name or change is not None}
    if change is not None:
        files[name] = change(content[name])
    write(tmp_path, files)
    report = verify(Structured3DDataModule(tmp_path), progress=False)
    assert report.samples == {"train": 3, "val": 1, "test": 1}
    assert [(found.split, found.sample, found.kind) for found in report.findings] == [
        ("train", SAMPLE, kind) for kind in kinds
    ]
    wrong = kinds[0] in ERRORS
    assert report.faulty == [SAMPLE] * wrong
    assert report.exit_code == wrong
    if kinds[0] in ("unreadable", "size"):
        assert str(tmp_path / name) in report.findings[0].sentence


def test_a_sound_set_has_no_findings_whoever_reads(tmp_path, content):
    write_zip(tmp_path / "Structured3D_panorama_00.zip", content)
    for workers in (0, 2):
        report = verify(Structured3DDataModule(tmp_path), workers=workers, progress=False)
        assert (report.findings, report.exit_code) == ([], 0)
    assert verify(RoomsDataModule(32, 64, 2, 2, 2), progress=False).findings == []


def test_a_damaged_archive_is_found_by_its_checksum(tmp_path, content):
    path = tmp_path / "Structured3D_panorama_00.zip"
    write_zip(path, content, compression=0)
    data = bytearray(path.read_bytes())
    data[data.index(content[DEPTH]) + 60] ^= 1
    path.write_bytes(data)
    (found,) = verify(Structured3DDataModule(tmp_path), progress=False).findings
    assert (found.sample, found.kind) == (SAMPLE, "unreadable")
    assert "checksum" in found.sentence


def test_what_no_sample_of_a_split_has_is_told_but_no_error(tmp_path, content):
    test_scene = "Structured3D/scene_03250"
    write(tmp_path, {name: data for name, data in content.items() if not (test_scene in name and "semantic" in name)})
    report = verify(Structured3DDataModule(tmp_path), progress=False)
    assert report.absent == {"train": [], "val": [], "test": ["semseg"]}
    assert report.findings == []
    assert "test: no sample has semseg" in report.summary()


def test_different_labels_can_be_allowed(tmp_path, content):
    write(tmp_path, {name: data for name, data in content.items() if name != DEPTH})
    assert verify(Structured3DDataModule(tmp_path), allow_missing=True, progress=False).findings == []


def test_depth_at_the_end_of_its_range_is_told(tmp_path, content):
    stored = pixels(content[DEPTH]).astype(np.uint16)
    stored[2, 3:6] = 65535
    write(tmp_path, content | {DEPTH: png(stored)})
    report = verify(Structured3DDataModule(tmp_path), progress=False)
    (found,) = report.findings
    assert (found.sample, found.kind, report.exit_code) == (SAMPLE, "saturated", 0)
    assert found.sentence == "3 pixels of depth are stored as 65535, which stands for this distance or farther"


def unlabelled(root, broken=()):
    """Six panoramas of which the first three have depth; some images are broken."""
    maps = [room_maps(i) for i in range(6)]
    files = {f"images/{i}.png": png(one["image"]) for i, one in enumerate(maps)}
    steps = [(one["depth"] * 1000).round().astype(np.uint16) for one in maps]
    write(root, files | {f"depth/{i}.png": png(steps[i]) for i in range(3)})
    write(root, {f"images/{i}.png": files[f"images/{i}.png"][:200] for i in broken})


@pytest.mark.parametrize("workers", [0, 1])
def test_panoramas_without_labels_are_read_too(tmp_path, workers):
    unlabelled(tmp_path, broken=(3, 5))
    report = verify(FolderDataModule(tmp_path), workers=workers, progress=False)
    assert report.samples == {"train": 1, "val": 1, "test": 1, "predict": 3}
    assert [(found.split, found.sample, found.kind) for found in report.findings] == [
        ("predict", "3", "unreadable"),
        ("predict", "5", "unreadable"),
    ]
    assert report.exit_code == 1
    assert verify(FolderDataModule(tmp_path), ["train", "val"], progress=False).exit_code == 0


def test_a_crop_is_not_taken_for_a_full_panorama(tmp_path):
    """Also if it is 2:1; a full panorama may have the same tags."""
    unlabelled(tmp_path)
    image = room_maps(4)["image"]
    height, width = image.shape[:2]
    tagged(tmp_path / "images/4.png", image, Window(height // 2, width // 2, height, width, 2 * height, 2 * width))
    tagged(tmp_path / "images/5.png", image, Window(0, 0, height, width, height, width))
    tagged(tmp_path / "images/3.png", image, Window(0, 0, 2 * height, width, 2 * height, width))
    stale, found = verify(FolderDataModule(tmp_path), progress=False).findings
    assert stale.sample == "3" and stale.sentence.endswith("; correct or remove the tags")
    assert (found.split, found.sample, found.kind) == ("predict", "4", "unreadable")
    assert f"images/4.png cannot be used: by its GPano tags it is a crop of a panorama of {2 * width}" in found.sentence


def test_what_the_lists_leave_out_is_read_too_but_once_and_not_what_is_excluded(tmp_path):
    unlabelled(tmp_path, broken=(1, 4))
    (tmp_path / "train.txt").write_text("0\n2")
    report = verify(FolderDataModule(tmp_path), progress=False)
    assert report.samples == {"train": 2, "predict": 4}
    assert report.faulty == ["1", "4"]
    (tmp_path / "exclude.txt").write_text("1\n4")
    report = verify(FolderDataModule(tmp_path, exclude=tmp_path / "exclude.txt"), progress=False)
    assert (report.samples, report.findings) == ({"train": 2, "predict": 2}, [])


def test_command_verifies_and_counts_a_folder_of_images_only(tmp_path, capsys):
    unlabelled(tmp_path / "data")
    for i in range(3):
        (tmp_path / f"data/depth/{i}.png").unlink()
    command = ["--data", "folder", "--root", tmp_path / "data", "--workers", 0]
    assert run("verify", *command) == 0
    assert "6 samples (6 predict): 0 with errors" in capsys.readouterr().out
    assert run("stats", *command) == 0
    assert "predict: 6 samples, 0 unreadable" in capsys.readouterr().out
    (tmp_path / "data/images/2.png").write_bytes(b"nothing")
    skip = tmp_path / "skip.txt"
    assert run("verify", *command, "--skip-list", skip) == 1
    assert skip.read_text() == "2\n"
    assert run("verify", *command, f"exclude={skip}") == 0


def test_images_that_are_no_panoramas_are_told_by_their_size(tmp_path):
    picture = png(random_rgb()[:, :20])
    write(tmp_path / "folder", {"images/a.png": picture})
    write(tmp_path / "zind", {"000/panos/floor_01_pano_1.jpg": picture})
    for data in (FolderDataModule(tmp_path / "folder"), ZInDDataModule(tmp_path / "zind")):
        (found,) = verify(data, progress=False).findings
        assert found.kind == "size" and found.sentence.endswith("is 20 x 16 pixels, but 2:1 is a panorama")
        with pytest.raises(InputError, match="cannot be used: it is 20 x 16 pixels, but a full 360 x 180 degree"):
            data.dataset("predict")[0]


def test_equal_ids_of_the_sets_of_a_mixture_are_different_samples(tmp_path, capsys):
    for name in ("one", "two"):
        unlabelled(tmp_path / name, broken=(1,))
    folders = {
        name: {"class_path": "FolderDataModule", "init_args": {"root": str(tmp_path / name)}} for name in ("one", "two")
    }
    mixture = {"data": {"class_path": "MixedDataModule", "init_args": {"modules": folders}}}
    (tmp_path / "mixture.yaml").write_text(json.dumps(mixture))
    command = ["verify", "--config", tmp_path / "mixture.yaml", "--workers", 0]
    assert run(*command) == 1
    assert "): 2 with errors, 0 only suspicious" in capsys.readouterr().out
    assert run(*command, "--skip-list", tmp_path / "skip.txt") == 1
    told = capsys.readouterr()
    assert "skip.txt would hold ids of several data sets: verify the sets of a mixture one by one" in told.err
    assert not told.out and not (tmp_path / "skip.txt").exists()


def test_an_empty_split_is_passed_over(tmp_path, content):
    write(tmp_path, {name: data for name, data in content.items() if "scene_03000" in name})
    assert verify(Structured3DDataModule(tmp_path), progress=False).samples == {"val": 1}
    with pytest.raises(ValueError, match="none for train"):
        verify(Structured3DDataModule(tmp_path), ["train"], progress=False)


def test_maps_without_a_file_format_are_judged_too():
    maps = room_maps(0)
    found = dict(judge(maps, 13, (0.05, 200)))
    assert found == {}
    maps["semseg"][0, :3] = 13
    maps["normals"][4, 5] *= 1.3
    maps["depth"][2, 2] = np.nan
    maps["depth"][2, 3] = -1
    found = dict(judge(maps, 13, (0.05, 200)))
    assert set(found) == {"classes", "length", "depth"}
    assert "[13]" in found["classes"]
    assert "2 pixels" in found["depth"]
    assert found["length"].startswith("0.0%")  # one of 2048
    assert dict(judge({"depth": np.full((8, 16), 2.0, np.float32)}, 0, (0.05, 200))) == {
        "depth": "depth is 2 m everywhere"
    }
    assert set(found) <= ERRORS.keys() | SUSPICIONS.keys()


def run(*arguments):
    return main(["data", *map(str, arguments)])


def test_command_writes_a_skip_list_that_the_data_module_honours(tmp_path, content, capsys):
    root = tmp_path / "data"
    write(
        root,
        content
        | {IMAGE: content[IMAGE][:99], NORMALS.replace("00000/2D_rendering/485142", "03000/2D_rendering/20"): b""},
    )
    old, skip, out = tmp_path / "old.txt", tmp_path / "skip.txt", tmp_path / "found.json"
    old.write_text("scene_02999_7_full_raw\n")
    arguments = ["verify", "--data", "structured3d", "--root", root, "--workers", 1]
    assert run(*arguments, "--skip-list", skip, "--json", out, f"exclude={old}") == 1
    printed = capsys.readouterr().out
    assert "error, unreadable: a file is damaged or not what the data set promises (2)" in printed
    assert "4 samples (2 train, 1 val, 1 test): 2 with errors, 0 only suspicious" in printed
    assert skip.read_text().splitlines() == [SAMPLE, "scene_02999_7_full_raw", "scene_03000_20_full_raw"]
    for file in (old, root / IMAGE):
        before = file.read_bytes()
        assert run(*arguments, "--skip-list", file) == 1
        assert str(file) in capsys.readouterr().err and file.read_bytes() == before
    assert run(*arguments, "--skip-list", skip) == 1
    assert f"{skip} exists: choose another name" in capsys.readouterr().err
    assert run(*arguments, "--skip-list", skip, f"exclude={skip}") == 0
    assert len(skip.read_text().splitlines()) == 3
    found = json.loads(out.read_text())
    assert found["kinds"] == {"unreadable": 2}
    photo = root / IMAGE
    before = photo.read_bytes()
    other = tmp_path / "other.json"
    other.write_text('{"frames": {"train": 3}}')
    for verb in ("verify", "stats"):
        for file in (photo, other):
            assert run(verb, *arguments[1:], "--json", file) == 1
            assert f"{file} exists and is not an earlier report" in capsys.readouterr().err
        report = tmp_path / f"{verb}.json"
        report.touch()
        assert [run(verb, *arguments[1:], "--json", report, f"exclude={skip}") for _ in range(2)] == [0, 0]
        assert json.loads(report.read_text())
    assert photo.read_bytes() == before and json.loads(other.read_text()) == {"frames": {"train": 3}}
    capsys.readouterr()
    assert {entry["sample"] for entry in found["findings"]} == {SAMPLE, "scene_03000_20_full_raw"}
    assert run(*arguments, f"exclude={skip}") == 0
    assert "2 samples (1 train, 1 test): 0 with errors" in capsys.readouterr().out


def test_command_verifies_names_that_are_not_utf8(tmp_path, capsys):
    write(tmp_path, {"images/a.png": png(random_rgb())})
    (tmp_path / "images" / os.fsdecode(b"\xff\xfe.png")).touch()
    arguments = ["verify", "--data", "folder", "--root", tmp_path, "--workers", 0]
    found = tmp_path / "found.json"
    assert run(*arguments, "--json", found) == 1
    assert r"predict \udcff\udcfe: " in capsys.readouterr().out
    assert json.loads(found.read_text())["findings"][0]["sample"] == os.fsdecode(b"\xff\xfe")
    assert run(*arguments, "--skip-list", tmp_path / "skip.txt") == 1
    assert r"\udcff\udcfe is not UTF-8, which a list of names has to be: rename the file" in capsys.readouterr().err
    assert not (tmp_path / "skip.txt").exists()


def test_plots_name_samples_as_they_are(tmp_path):
    write(tmp_path, {"images/a$b_{$c.png": png(random_rgb())})
    (tmp_path / "images" / os.fsdecode(b"\xff.png")).write_bytes(png(random_rgb()))
    data = FolderDataModule(tmp_path, height=32, width=64)
    assert plot_samples(data, tmp_path / "out.png", split="predict") == 2


def test_command_says_what_is_suspicious_and_succeeds(tmp_path, content, capsys):
    write(tmp_path, content | {NORMALS: other_frame(content[NORMALS])})
    assert run("verify", "--data", "Structured3DDataModule", "--root", tmp_path, "--workers", 0) == 0
    printed = capsys.readouterr().out
    assert "suspicious, facing: normals that face away from the camera (1)" in printed
    assert "0 with errors, 1 only suspicious" in printed


@pytest.mark.parametrize("kind", ["--data", "--config"])
def test_plot_shows_samples(kind, tmp_path, content):
    write(tmp_path, content)
    config = tmp_path / "mine.yaml"
    config.write_text("data:\n  class_path: Structured3DDataModule\n  init_args: {root: nowhere}\n")
    name = "structured3d" if kind == "--data" else config
    out = tmp_path / "samples.png"
    assert run("plot", kind, name, "--root", tmp_path, "--out", out, "--count", 2, "height=32", "width=64") == 0
    both = np.array(Image.open(out))
    assert run("plot", kind, name, "--root", tmp_path, "--out", out, "--id", SAMPLE, "height=32", "width=64") == 0
    one = np.array(Image.open(out))
    assert both.shape == (2 * one.shape[0], *one.shape[1:])
    assert np.array_equal(both[: len(one)], one)  # the first of the split
    colours = {tuple(colour) for colour in one.reshape(-1, 3)}
    assert (78, 71, 183) in colours  # the ceiling


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nyu"], "There is no data set nyu. Known names are deep360, folder, "),
        ([], "name a data set with either --data NAME or --config FILE"),
        (["--data", "structured3d", "--root", "nowhere"], "nowhere does not exist"),
        (["--data", "structured3d", "--root", ".", "lights"], "must be key=value, not 'lights'"),
        (
            ["--data", "structured3d", "--root", ".", "colour=1"],
            "Structured3DDataModule has no argument colour; it has root, ",
        ),
        (["--data", "structured3d", "--root", ".", "height=100"], "twice as wide as high"),
        (["--data", "structured3d", "--root", ".", "tasks=[depth"], "is not YAML"),
        (["--config", "empty.yaml"], "empty.yaml has no section `data:`"),
        (["--config", "nothing.yaml"], "There is no configuration at nothing.yaml"),
        (["--data", "structured3d", "--root", "."], "holds no panorama of the form"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("trainer: {}\n")
    assert run("verify", *arguments) == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert len(printed.strip().splitlines()) == 1


def test_wrong_id_and_range(tmp_path, content, capsys):
    write(tmp_path, content)
    common = ["--data", "structured3d", "--root", tmp_path]
    assert run("plot", *common, "--out", tmp_path / "x.png", "--id", "scene_9") == 1
    assert "train has no sample scene_9" in capsys.readouterr().err
    for name in ("x.jpg", "x"):
        assert run("plot", *common, "--out", tmp_path / name) == 1
        assert f"{tmp_path / name} must be a PNG file" in capsys.readouterr().err and not (tmp_path / name).exists()
    assert run("verify", *common, "--depth-range", 5, 1) == 1
    assert "the smaller first" in capsys.readouterr().err


def test_command_prepares_panoramas_that_verify_and_plot(tmp_path, capsys):
    scan = "2t7WUuJeko7"
    write(tmp_path / "raw" / scan / scan, fake_matterport3d.release(scan))
    out, count = tmp_path / "out", len(fake_matterport3d.PANORAMAS[scan])
    arguments = ["prepare", "matterport3d", "--root", tmp_path / "raw", "--out", out, "--height", 32]
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert f"{scan}: {count} panoramas written" in printed
    assert f"{count} panoramas are in {out}, {count} of them new" in printed
    assert run(*arguments) == 0
    assert f"{count} panoramas are in {out}, 0 of them new" in capsys.readouterr().out
    data = ["--data", "matterport3d", "--root", out, "height=32", "width=64"]
    assert run("verify", *data, "--workers", 0, "--allow-missing") == 0
    assert f"{count} samples ({count} test): 0 with errors" in capsys.readouterr().out
    assert run("plot", *data, "--split", "test", "--out", tmp_path / "test.png") == 0
    assert run("prepare", "matterport3d", "--root", tmp_path / "nowhere", "--out", tmp_path / "x") == 1
