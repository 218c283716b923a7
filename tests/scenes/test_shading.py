"""Texture and light in a hand-made room of which everything is known: 4 x 4 x 3 m, one lamp."""

import numpy as np
import pytest
import torch

from mtpano_zoo.scenes import Room, lighting, materials, render
from mtpano_zoo.scenes.scene import ORIGIN, Builder, Frame
from mtpano_zoo.sphere import depth_to_points


def room(floor=None, lamp=(2.0, -2.5, 2.0), extra=None, camera=(2.5, -1.5, 2.2)):
    gray = materials.material((0.5, 0.5, 0.5), noise=0.0)
    builder = Builder()
    wide = (-0.3, 4.3)
    builder.box("floor", gray if floor is None else floor, wide, (-0.3, 0.0), wide)
    builder.box("ceiling", gray, wide, (3.0, 3.3), wide)
    for a in ((-0.3, 0.0), (4.0, 4.3)):
        builder.box("wall", gray, a, (0.0, 3.0), wide)
        builder.box("wall", gray, wide, (0.0, 3.0), a)
    if extra is not None:
        extra(builder)
    return Room(
        id="test",
        **builder.arrays(),
        camera=np.array(camera),
        yaw=0.3,
        lights=np.array([[*lamp, 2.0, 2.0, 2.0]], dtype=np.float32),
        ambient=np.full(3, 0.2, dtype=np.float32),
        occupancy=np.zeros((2, 128, 128), dtype=np.float32),
        exposure=1.0,
        white_balance=np.ones(3, dtype=np.float32),
        noise=0.0,
        salt=7,
    )


def floor_points(scene, batch):
    """x and z in the room of every pixel, and which of them show the floor."""
    x, _, z = depth_to_points(batch["depth"][:, None])[0].double()
    cos, sin = np.cos(scene.yaw), np.sin(scene.yaw)
    return x * cos - z * sin + scene.camera[0], x * sin + z * cos + scene.camera[2], batch["semseg"][0] == 1


def test_a_checkerboard_is_where_it_should_be():
    red, blue = (0.8, 0.05, 0.05), (0.05, 0.05, 0.8)
    scene = room(materials.material(red, blue, checker=1.0, cell_u=0.5, cell_v=0.5, noise=0.0))
    batch = render([scene], 128, 256)
    x, z, floor = floor_points(scene, batch)
    clear = floor & ((x / 0.5 % 1 - 0.5).abs() < 0.45) & ((z / 0.5 % 1 - 0.5).abs() < 0.45)
    odd = ((x / 0.5).floor() + (z / 0.5).floor()) % 2 == 1
    bluer = batch["image"][0, 2] > batch["image"][0, 0]
    assert clear.float().mean() > 0.2
    assert torch.equal(bluer[clear], odd[clear])


def test_light_falls_off_and_comes_from_the_lamp():
    scene = room()
    batch = render([scene], 64, 128)
    x, z, floor = floor_points(scene, batch)
    distance, grey = ((x - 2) ** 2 + (z - 2) ** 2)[floor], batch["image"][0, 0][floor].double()
    order = distance.argsort()
    brightness = grey[order]
    assert brightness[:100].mean() > 1.1 * brightness[-100:].mean()
    assert (brightness[1:] - brightness[:-1]).max() < 0.02


def test_a_table_casts_its_shadow():
    def table(builder):
        builder.box(
            "table", materials.material((0.5, 0.5, 0.5)), (-0.5, 0.5), (0.7, 0.75), (-0.5, 0.5), Frame(1.5, 2.0, 0)
        )

    with_table, without = (room(extra=extra, camera=(3.4, -0.4, 2.0)) for extra in (table, None))
    shaded, plain = render([with_table], 96, 192), render([without], 96, 192)
    x, z, floor = floor_points(with_table, shaded)
    # The lamp hangs 1.75 m over the table top: the shadow of its edges is magnified by 2.5 / 1.75 about x = z = 2.
    x, z = 2 + (x - 2) * 0.7, 2 + (z - 2) * 0.7
    depth_inside = torch.minimum(0.5 - (x - 1.5).abs(), 0.5 - (z - 2).abs())
    ratio = (shaded["image"] / plain["image"])[0, 0]
    under, clear = floor & (depth_inside > 0.1), floor & (depth_inside < -0.15)
    assert under.sum() > 50 and clear.sum() > 500
    assert ratio[under].max() < 0.9
    assert ratio[clear].min() > 0.99


@pytest.mark.parametrize("lamp", [(2.0, -2.5, 2.0), (1.0, -2.9, 3.0), (0.4, -1.5, 2.0)])
def test_surfaces_do_not_shade_themselves(lamp, monkeypatch):
    """An empty convex room is fully lit, also where light grazes a wall or the ceiling."""
    image = render([room(lamp=lamp)], 96, 192)["image"]
    monkeypatch.setattr(lighting, "_lit", lambda lx, *_: torch.ones_like(lx))
    expected = render([room(lamp=lamp)], 96, 192)["image"]
    difference = (image - expected).abs()
    # At an edge of the room a texel of the shadow map may see the neighbouring wall: single pixels, slightly darker.
    assert (difference > 0.02).float().mean() < 1e-3 and difference.max() < 0.1


def test_a_frame_at_a_right_angle_is_snapped_to_the_axes():
    builder = Builder()
    builder.box(
        "wall", materials.material((1, 1, 1)), (0.0, 2.0), (0.0, 1.0), (-0.3, 0.0), ORIGIN.at(1.0, 3.0, np.pi / 2)
    )
    arrays = builder.arrays()
    assert arrays["frames"].tolist() == [[0.0, 0.0, 0.0]]
    assert arrays["lower"].tolist() == [[0.7, -1.0, 1.0]] and arrays["upper"].tolist() == [[1.0, 0.0, 3.0]]
