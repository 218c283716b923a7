from pathlib import Path

import cv2
import numpy as np
import pytest
from analytic import CLASSES, Analytic, angles, photo
from matplotlib.figure import Figure
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import decode_normals, depth_from_steps
from mtpano_zoo.prediction import Prediction, output_paths, predict


def test_saved_files_hold_the_maps(tmp_path):
    prediction = predict(Analytic(), photo(48, 96))
    paths = prediction.save(tmp_path / "new" / "folder", "room.v2")
    assert {kind: path.name for kind, path in paths.items()} == {
        "semseg": "room.v2_semseg.png",
        "depth": "room.v2_depth.png",
        "depth_metres": "room.v2_depth.npy",
        "normals": "room.v2_normals.png",
        "panel": "room.v2_panel.png",
    }
    with Image.open(paths["semseg"]) as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), prediction.semseg)
        assert np.array_equal(np.asarray(image.convert("RGB")), prediction.palette[prediction.semseg])
    depth = cv2.imread(str(paths["depth"]), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and np.abs(depth_from_steps(depth) - prediction.depth).max() <= 0.00051
    assert np.array_equal(np.load(paths["depth_metres"]), prediction.depth)
    normals = cv2.cvtColor(cv2.imread(str(paths["normals"]), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)
    assert angles(decode_normals(normals), prediction.normals).max() < 0.5
    with Image.open(paths["panel"]) as image:
        assert image.width == 1600


@pytest.mark.parametrize("stem", ["../up", "/abs", "", "a/../../b", "end.", "n" * 250])
def test_nothing_is_written_outside_the_folder(tmp_path, stem):
    prediction = predict(Analytic(("depth",)), photo())
    with pytest.raises(InputError, match="The id"):
        prediction.save(tmp_path / "out", stem)
    assert not any(tmp_path.iterdir())
    paths = prediction.save(tmp_path / "out", "sub/folder/a")
    assert all(path.is_file() and path.parent == tmp_path / "out" / "sub" / "folder" for path in paths.values())


def test_files_can_be_written_one_by_one(tmp_path):
    prediction = predict(Analytic(), photo())
    for i, path in enumerate(prediction.save_each(tmp_path), start=1):
        assert path.is_file() and len(list(tmp_path.iterdir())) == i
    assert set(tmp_path.iterdir()) == set(output_paths(tmp_path, "panorama", prediction.tasks).values())


def test_files_are_overwritten_only_when_asked(tmp_path):
    prediction = predict(Analytic(("depth",)), photo())
    (tmp_path / "panorama_depth.npy").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"panorama_depth\.npy already exists.*overwrite"):
        prediction.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["panorama_depth.npy"]
    assert (tmp_path / "panorama_depth.npy").read_bytes() == b"mine"
    prediction.save(tmp_path, overwrite=True)
    assert np.array_equal(np.load(tmp_path / "panorama_depth.npy"), prediction.depth)
    with pytest.raises(NotADirectoryError, match="is a file"):
        prediction.save(tmp_path / "panorama_depth.npy")


def test_point_cloud_holds_what_has_depth():
    prediction = predict(Analytic(("depth",)), photo())
    points, colours = prediction.point_cloud()
    assert points.dtype == np.float32 and points.shape == colours.shape == (32 * 64, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), prediction.depth.ravel(), rtol=1e-5)
    # The middle of the panorama is ahead, a quarter to the right of it is right, and the first row is above.
    grid = points.reshape(32, 64, 3) / prediction.depth[..., None]
    assert grid[16, 32, 2] > 0.99 and grid[16, 48, 0] > 0.99 and grid[0, 0, 1] < -0.99
    holes = prediction.depth.copy()
    holes[:16], holes[16, 0], holes[18, 2] = 0, np.nan, np.inf
    with_holes = Prediction(prediction.image, {"depth": holes}, (), prediction.palette)
    points, colours = with_holes.point_cloud(stride=2)
    assert len(points) == len(colours) == 8 * 32 - 2
    assert np.array_equal(colours[0], prediction.image[16, 2])


def test_point_cloud_refuses(tmp_path):
    prediction = predict(Analytic(("depth",)), photo())
    with pytest.raises(ValueError, match="stride"):
        prediction.point_cloud(stride=0)
    with pytest.raises(ValueError, match="needs depth"):
        predict(Analytic(("normals",)), photo()).point_cloud()
    prediction.export(tmp_path / "a.ply", stride=4)
    assert Path(tmp_path / "a.ply").stat().st_size > 8 * 16 * 15


def test_figure_is_wide_enough_to_read():
    figure = predict(Analytic(), photo()).figure()
    assert isinstance(figure, Figure) and figure.get_size_inches()[0] * figure.dpi == 1600


@pytest.mark.parametrize(("change", "sentence"), [
    ({"depth": np.ones((31, 64), np.float32)}, "depth has shape"),
    ({"normals": np.ones((32, 64), np.float32)}, "normals has shape"),
    ({"semseg": np.full((32, 64), 3, np.uint8)}, "classes 3 to 3, but there are 3 classes"),
    ({"semseg": np.full((32, 64), -1)}, "classes -1 to -1"),
    ({"layout": np.ones((32, 64))}, "there is no task layout"),
    ({"palette": np.zeros((2, 3), np.uint8)}, "3 classes need as many colours, not 2"),
])  # fmt: skip
def test_maps_that_do_not_fit_are_refused(change, sentence):
    palette = change.pop("palette", np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match=sentence):
        Prediction(photo(), change, CLASSES, palette)
    Prediction(photo(), {"semseg": np.full((32, 64), 255, np.uint8)}, CLASSES, np.zeros((3, 3), np.uint8))
