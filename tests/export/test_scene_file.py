from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from mtpano_zoo.export.scene_file import default_stride
from mtpano_zoo.prediction import Prediction
from mtpano_zoo.sphere import erp_rays

NO_COLOURS = np.zeros((0, 3), np.uint8)


def prediction(depth: float | np.ndarray = 2.0, height: int = 16, **maps: np.ndarray) -> Prediction:
    image = np.random.default_rng(0).integers(0, 256, (height, 2 * height, 3), np.uint8)
    return Prediction(image, {"depth": np.full((height, 2 * height), depth, np.float32), **maps}, (), NO_COLOURS)


def test_a_cloud_has_colours_and_normals(tmp_path: Path) -> None:
    found = prediction()
    assert found.export(tmp_path / "new" / "a.ply") == tmp_path / "new" / "a.ply"
    cloud = trimesh.load(tmp_path / "new" / "a.ply")
    rays = erp_rays(16, 32).reshape(-1, 3).numpy()
    np.testing.assert_allclose(cloud.vertices, 2 * rays, atol=1e-5)
    assert np.array_equal(cloud.colors[:, :3], found.image.reshape(-1, 3))
    data = cloud.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([data[name] for name in ("nx", "ny", "nz")], -1).reshape(-1, 3)
    # Of a sphere, they point at the camera.
    np.testing.assert_allclose(normals, -rays, atol=0.02)


def test_a_cloud_takes_the_normals_of_the_network(tmp_path: Path) -> None:
    normals = torch.nn.functional.normalize(torch.rand(16, 32, 3), dim=-1).numpy()
    prediction(normals=normals).export(tmp_path / "a.ply", stride=2, nadir=60.0)
    data = trimesh.load(tmp_path / "a.ply").metadata["_ply_raw"]["vertex"]["data"]
    written = np.stack([data[name] for name in ("nx", "ny", "nz")], -1).reshape(-1, 3)
    np.testing.assert_allclose(written, normals[:11:2, ::2].reshape(-1, 3), atol=1e-6)


def test_a_large_panorama_is_thinned_out(tmp_path: Path) -> None:
    assert [default_stride(height) for height in (64, 512, 513, 1024, 4096)] == [1, 1, 2, 2, 8]
    path = prediction(height=16).export(tmp_path / "A.GLB", stride=4, edge=1.5, max_angle=80.0)
    assert len(trimesh.load(path, force="mesh").faces) == 2 * 4 * 8


@pytest.mark.parametrize("name", ["a.ply", "a.glb"])
@pytest.mark.parametrize("depth", [0.0, np.nan])
def test_a_panorama_without_distances_is_refused(name: str, depth: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="because no pixel has a distance: depth is 0 everywhere"):
        prediction(depth).export(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    found = prediction()
    with pytest.raises(ValueError, match=r"a\.obj must end in \.ply or \.glb"):
        found.export(tmp_path / "a.obj")
    (tmp_path / "a.glb").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="choose another name"):
        found.export(tmp_path / "a.glb")
    assert (tmp_path / "a.glb").read_bytes() == b"mine"
    found.export(tmp_path / "a.glb", overwrite=True)
    assert (tmp_path / "a.glb").read_bytes()[:4] == b"glTF"
    (tmp_path / "b.ply").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        found.export(tmp_path / "b.ply")
    without = Prediction(found.image, {"normals": np.zeros((16, 32, 3), np.float32)}, (), NO_COLOURS)
    with pytest.raises(ValueError, match=r"c\.glb needs depth, which this network does not predict"):
        without.export(tmp_path / "c.glb")
    for name in ("c.ply", "c.glb"):
        for stride in (-1, 0):
            with pytest.raises(ValueError, match=f"stride is a positive number of pixels, not {stride}"):
                found.export(tmp_path / name, stride=stride)
