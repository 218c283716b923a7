import dataclasses
import hashlib
import subprocess
import sys

import pytest
import torch

from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street
from mtpano_zoo.sphere import depth_to_points, points_to_normals, rotation_matrix, turn_vectors

MAPS = ("image", "semseg", "depth", "normals")


@pytest.fixture(scope="module")
def rooms():
    return [sample_room(3, "val", index) for index in range(6)]


@pytest.fixture(scope="module")
def batch(rooms):
    return render(rooms, 64, 128)


def test_shapes_types_and_ranges(batch):
    assert batch["image"].shape == (6, 3, 64, 128) and batch["image"].dtype == torch.float32
    assert batch["semseg"].shape == (6, 64, 128) and batch["semseg"].dtype == torch.int64
    assert batch["depth"].shape == (6, 64, 128) and batch["depth"].dtype == torch.float32
    assert batch["normals"].shape == (6, 3, 64, 128) and batch["normals"].dtype == torch.float32
    assert batch["id"] == [f"val-{index:06d}" for index in range(6)]
    assert batch["semseg"].min() >= 0 and batch["semseg"].max() <= 12
    assert batch["depth"].isfinite().all() and batch["depth"].min() > 0.1


def test_images_are_8_bit_and_well_exposed(batch):
    image = batch["image"]
    assert image.min() >= 0 and image.max() <= 1
    assert torch.equal(image.mul(255).round().div(255), image)
    assert ((image.mean((1, 2, 3)) > 0.15) & (image.mean((1, 2, 3)) < 0.85)).all()
    assert (image.std((1, 2, 3)) > 0.04).all()


def test_normals_are_unit_and_face_the_camera(batch):
    normals = batch["normals"]
    assert (normals.norm(dim=1) - 1).abs().max() < 1e-5
    points = depth_to_points(batch["depth"][:, None])
    assert ((normals * points).sum(1) < 1e-4).all()


def test_normals_agree_with_depth_on_flat_surfaces(rooms):
    batch = render(rooms, 128, 256)
    estimated = points_to_normals(depth_to_points(batch["depth"][:, None]))
    normals, semseg = batch["normals"], batch["semseg"]
    flat = torch.ones_like(semseg, dtype=torch.bool)
    for rows, columns in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        flat &= (torch.roll(normals, (rows, columns), (-2, -1)) == normals).all(1)
        flat &= torch.roll(semseg, (rows, columns), (-2, -1)) == semseg
    # Rows roll from the ceiling to the floor; the walls, a large continuous part, are enough here.
    flat &= semseg == 2
    angle = torch.rad2deg((estimated * normals).sum(1).clamp(-1, 1).arccos())[flat]
    assert flat.float().mean() > 0.1
    assert angle.median() < 0.1 and (angle < 1).float().mean() > 0.97


@pytest.mark.parametrize("columns", [1, 37, 64, -20])
def test_a_turned_camera_sees_the_rolled_maps(rooms, columns):
    quiet = [dataclasses.replace(room, noise=0.0) for room in rooms]
    turned = render([room.turned(-columns * 360 / 128) for room in quiet], 64, 128)
    rolled = {key: torch.roll(maps, columns, -1) for key, maps in render(quiet, 64, 128).items() if key != "id"}
    rolled["normals"] = turn_vectors(rolled["normals"], rotation_matrix(columns * 360 / 128))
    same = turned["semseg"] == rolled["semseg"]
    close = (turned["depth"] - rolled["depth"]).abs() < 1e-5 * rolled["depth"]
    assert same.float().mean() > 0.9995 and close.float().mean() > 0.9995
    assert (turned["normals"] - rolled["normals"]).abs().amax(1)[close].max() < 2e-4
    # Shadow maps are cast again in the new orientation, so that shadow edges move by a fraction of their texels.
    assert (turned["image"] - rolled["image"]).abs().mean() < 4e-3


def test_a_room_does_not_depend_on_its_batch(rooms, batch):
    for order in ([2], [5, 2, 0], [2, 3]):
        again = render([rooms[i] for i in order], 64, 128)
        for place, i in enumerate(order):
            assert all(torch.equal(again[key][place], batch[key][i]) for key in MAPS)


def test_a_room_does_not_depend_on_the_number_of_threads(rooms, batch):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        again = render(rooms, 64, 128)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(again[key], batch[key]) for key in MAPS)


def test_another_process_renders_the_same_bits(batch):
    code = (
        "import hashlib; from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street;"
        "b = render([sample_room(3, 'val', i) for i in (4, 1)], 64, 128);"
        "print(*[hashlib.sha256(b[k].numpy().tobytes()).hexdigest() for k in ('image', 'semseg', 'depth', 'normals')])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = [hashlib.sha256(batch[key][[4, 1]].numpy().tobytes()).hexdigest() for key in MAPS]
    assert printed == ours


@pytest.mark.parametrize(("height", "width"), [(64, 64), (4, 8), (0, 0), (64, 127)])
def test_refuses_sizes_that_no_panorama_has(rooms, height, width):
    with pytest.raises(ValueError, match="8 x 16"):
        render(rooms, height, width)


def test_refuses_sizes_that_no_memory_holds(rooms):
    with pytest.raises(ValueError, match="a room is 200000 x 100000 pixels"):
        render(rooms, 100_000, 200_000)


def test_refuses_an_empty_list():
    with pytest.raises(ValueError, match="at least one room"):
        render([], 64, 128)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_the_same_streets():
    scenes = [sample_street(3, "val", 0), sample_street(3, "val", 1, 20.0), sample_home(3, "val", 2, 10.0)]
    ours, other = render(scenes, 64, 128), render(scenes, 64, 128, "cuda")
    same = other["semseg"].cpu() == ours["semseg"]
    assert same.float().mean() > 0.999
    assert torch.allclose(other["depth"].cpu()[same], ours["depth"][same], rtol=1e-4)
    assert (other["image"].cpu() - ours["image"]).abs().mean() < 5e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_the_same_geometry(rooms, batch):
    other = {key: value.cpu() if key != "id" else value for key, value in render(rooms, 64, 128, "cuda").items()}
    same = other["semseg"] == batch["semseg"]
    assert same.float().mean() > 0.9999
    assert torch.allclose(other["depth"][same], batch["depth"][same], rtol=1e-5)
    assert (other["image"] - batch["image"]).abs().mean() < 1e-3
