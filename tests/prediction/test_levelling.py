"""Levelling: rooms that were tilted by a known rotation, and networks whose answer is known in every frame."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mtpano_zoo.data import HomesDataset, RoomsDataset
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Panorama
from mtpano_zoo.image_io.gpano import PoseAngles
from mtpano_zoo.prediction import predict
from mtpano_zoo.prediction.levelling import estimate_up, levelling_rotation
from mtpano_zoo.run import run
from mtpano_zoo.sphere import erp_rays, rotate, rotation_matrix

UP = torch.tensor([0.0, -1.0, 0.0])


def degrees_between(one: Tensor, other: Tensor) -> float:
    return math.degrees(math.acos(min(1.0, float(one @ other))))


@pytest.fixture(scope="module")
def room() -> Tensor:
    image: Tensor = RoomsDataset("test", 4, 256, 512)[0]["image"]
    return image


@pytest.mark.parametrize(("heading", "tilt"), [(0.0, 0.0), (40.0, 7.0), (190.0, 20.0), (290.0, 35.0)])
def test_up_of_a_tilted_room(room: Tensor, heading: float, tilt: float) -> None:
    rotation = rotation_matrix(heading, tilt) @ rotation_matrix(-heading)
    up = estimate_up(rotate(room[None], rotation)[0])
    assert up is not None
    assert float(up.norm()) == pytest.approx(1, abs=1e-5)
    assert degrees_between(up, rotation.T @ UP) < 1.5


def test_horizontal_edges_decide_between_directions_a_few_degrees_apart() -> None:
    """Vertical edges alone are four degrees off in this home: there are many that are nearly vertical."""
    rotation = rotation_matrix(pitch=-2.4, roll=19.9)
    up = estimate_up(rotate(HomesDataset("test", 10, 256, 512)[9]["image"][None], rotation)[0])
    assert up is not None and degrees_between(up, rotation.T @ UP) < 1.5


def test_a_wall_is_not_taken_for_the_ceiling_at_the_largest_tilts(room: Tensor) -> None:
    for rotation in (rotation_matrix(pitch=43.0), rotation_matrix(roll=43.0)):
        up = estimate_up(rotate(room[None], rotation)[0])
        assert up is not None and degrees_between(up, rotation.T @ UP) < 1.5


def test_fine_edges_are_found_at_512_rows() -> None:
    """Stripes of two pixels at 512 rows are grey at 256, where only the slanted edge is left."""
    rays = erp_rays(512, 1024)
    rotation = rotation_matrix(pitch=20.0)
    world = rays @ rotation.T
    stripes = ((torch.atan2(world[..., 0], world[..., 2]) * 512 / math.pi / 2).floor() % 2) * (
        world[..., 1].abs() < 0.7
    )
    slanted = (rays @ torch.tensor([0.5, 0.5, 0.7])) > 0
    image = (0.2 * stripes + 0.5 * slanted).expand(3, -1, -1)
    up = estimate_up(image)
    assert up is not None and degrees_between(up, rotation.T @ UP) < 1.5


def test_faint_noise_is_no_edge() -> None:
    for rows in (256, 512):
        noise = 0.001 * torch.rand(3, rows, 2 * rows, generator=torch.Generator().manual_seed(0))
        assert estimate_up(0.5 + noise) is None


def test_the_border_of_a_crop_is_no_edge() -> None:
    image = RoomsDataset("test", 4, 256, 512)[2]["image"]
    rotation = rotation_matrix(pitch=15.0, roll=-10.0)
    seen = torch.zeros(256, 512, dtype=torch.bool)
    seen[64:192, 128:384] = True
    part = rotate(image[None], rotation)[0] * seen
    mistaken, up = estimate_up(part), estimate_up(part, seen)
    assert mistaken is not None and degrees_between(mistaken, rotation.T @ UP) > 10
    assert up is not None and degrees_between(up, rotation.T @ UP) < 1.5
    pixels = (part.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    prediction = predict(Flat(), Panorama(pixels, seen.numpy()), level=True)
    assert degrees_between(torch.tensor(prediction.up), rotation.T @ UP) < 1.5


def test_an_image_without_edges_is_not_turned() -> None:
    assert estimate_up(torch.zeros(3, 64, 128)) is None
    noise = torch.rand(3, 256, 512, generator=torch.Generator().manual_seed(0))
    assert levelling_rotation(estimate_up(noise)) is None
    with pytest.raises(InputError, match=r"needs an image \(3, H, W\), got \(1, 3, 64, 128\)"):
        estimate_up(torch.zeros(1, 3, 64, 128))
    noise[0, 100, 200] = torch.nan
    with pytest.raises(InputError, match="levelling needs finite values"):
        estimate_up(noise)


def test_the_levelling_rotation_is_the_smallest_that_levels() -> None:
    for heading, tilt in ((10.0, 3.0), (120.0, 44.0), (250.0, 20.0)):
        up = rotation_matrix(heading, tilt, 15.0).T @ UP
        turn = levelling_rotation(up)
        assert turn is not None
        torch.testing.assert_close(turn @ UP, up)
        torch.testing.assert_close(turn @ turn.T, torch.eye(3))
        angle = math.degrees(math.acos((float(turn.trace()) - 1) / 2))
        assert angle == pytest.approx(degrees_between(up, UP), abs=0.01)
        assert float(torch.linalg.det(turn)) == pytest.approx(1, abs=1e-5)
    assert levelling_rotation(None) is None
    assert levelling_rotation(rotation_matrix(0.0, 0.9) @ UP) is None
    assert levelling_rotation(rotation_matrix(0.0, 1.1) @ UP) is not None


@pytest.mark.parametrize("off", [30.0, 1.0, 0.1, 0.02, 0.001, 0.0])
def test_the_levelling_rotation_is_exact_near_upside_down(off: float) -> None:
    angle = math.radians(off)
    up = torch.tensor([0.6 * math.sin(angle), math.cos(angle), -0.8 * math.sin(angle)])
    turn = levelling_rotation(up)
    assert turn is not None
    torch.testing.assert_close(turn @ UP, up, rtol=0, atol=1e-6)
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), rtol=0, atol=1e-6)
    assert float(torch.linalg.det(turn)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("tilt", "turned"), [(1.5, False), (3.0, True)])
def test_small_tilts_are_undone_if_the_file_states_them(room: Tensor, tilt: float, turned: bool) -> None:
    rotation = rotation_matrix(pitch=tilt)
    tilted = rotate(room[None], rotation)[0]
    estimated, stated, unturned = Flat(), Flat(), Flat()
    predict(unturned, tilted)
    predict(estimated, tilted, level=True)
    assert torch.equal(estimated.seen[0], unturned.seen[0]) is not turned
    pixels = (tilted.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    predict(stated, Panorama(pixels, None, pose=PoseAngles(0.0, tilt, 0.0)))
    assert not torch.allclose(stated.seen[0], unturned.seen[0], atol=0.02)


class Flat(nn.Module):
    """Says what it was trained to: the floor lies below, whatever it sees; classes are above and below the horizon."""

    tasks, input_size, classes = ("semseg", "depth", "normals", "valid"), (128, 256), ("above", "below")

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.seen = image
        down = erp_rays(*image.shape[-2:])[..., 1].expand(len(image), 1, -1, -1)
        normals = UP.view(1, 3, 1, 1).expand(len(image), -1, *image.shape[-2:])
        return {"semseg": torch.cat((-down, down), 1), "depth": 2 + down, "normals": normals, "valid": down + 0.5}


def test_maps_come_back_in_the_frame_of_the_camera(room: Tensor) -> None:
    rotation = rotation_matrix(200.0, 20.0) @ rotation_matrix(-200.0)
    tilted = rotate(room[None], rotation)[0]
    network = Flat()
    as_it_is = predict(network, tilted)
    unlevelled = network.seen[0]
    prediction = predict(network, tilted, level=True)
    assert as_it_is.up is None and prediction.up is not None
    # The smallest turn undoes the tilt, so the network sees the room as it was.
    reference = nn.functional.avg_pool2d(room, 2)
    assert (network.seen[0] - reference).abs().mean() < 0.5 * (unlevelled - reference).abs().mean()
    up = torch.tensor(prediction.up)
    valid = prediction.valid[..., None]
    np.testing.assert_allclose(prediction.normals, np.where(valid, up.numpy(), 0), atol=1e-3)
    down = -(erp_rays(256, 512) @ up).numpy()
    clear = np.abs(down + 0.5) > 0.05
    assert (prediction.valid == (down > -0.5))[clear].all()
    np.testing.assert_allclose(prediction.depth[prediction.valid], (2 + down)[prediction.valid], atol=0.01)
    horizon = np.abs(down) < 0.03
    assert (prediction.semseg == (down > 0))[~horizon].all()


def test_a_level_panorama_is_left_as_it_is(room: Tensor) -> None:
    network = Flat()
    levelled, plain = predict(network, room, level=True), predict(network, room)
    assert levelled.up is not None and -levelled.up[1] > math.cos(math.radians(1))
    assert all(np.array_equal(levelled.maps[task], plain.maps[task]) for task in network.tasks)


def test_the_folder_records_what_was_turned(room: Tensor, tmp_path: Path) -> None:
    tilted = rotate(room[None], rotation_matrix(0.0, 15.0))[0]
    for name, image in (("tilted", tilted), ("black", torch.zeros(3, 64, 128))):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    images = [tmp_path / "tilted.png", tmp_path / "black.png"]
    assert not run(images, Flat(), out, level=True, panel=False, progress=False).failed
    assert json.loads((out / "manifest.json").read_text())["options"]["level"] is True
    lines = [json.loads(line) for line in (out / "manifest.images.jsonl").read_text().splitlines() if line]
    done = {line["name"]: line for line in lines if line["sha256"]}
    assert degrees_between(torch.tensor(done["tilted"]["up"]), rotation_matrix(0.0, 15.0).T @ UP) < 1.5
    assert "up" not in done["black"]
    assert run(images, Flat(), out, level=True, panel=False, progress=False).skipped == images
    with pytest.raises(InputError, match="level"):
        run(images, Flat(), out, panel=False, progress=False)
