"""Augmented panoramas against rooms that are seen by a turned camera or mirrored, and against properties."""

import dataclasses
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from ray_caster import reference

from mtpano_zoo.data.augmentation import Augmentation, mirror_sample, rotate_sample
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.scenes.scene import BOX
from mtpano_zoo.sphere import depth_to_points, erp_rays, rotate_rays, rotation_matrix, unit

MAPS = ("image", "semseg", "depth", "normals")
HEIGHT, WIDTH = 24, 48
# From the centre of a pixel at the equator, where pixels are largest, to its corner.
HALF_PIXEL = math.pi / HEIGHT / math.sqrt(2)

ANGLES = st.floats(-180, 180)
ROTATIONS = st.builds(lambda *angles: rotation_matrix(*angles, dtype=torch.float64), ANGLES, ANGLES, ANGLES)


def sample_of(room, height=HEIGHT):
    batch = render([room], height, 2 * height)
    return {key: batch[key][0] for key in ("id", *MAPS)}


def noise(seed=0, holes=0.3):
    """A sample of independent pixels, with holes in every map but the image."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(HEIGHT, WIDTH, generator=generator) >= holes
    return {
        "id": f"noise-{seed}",
        "image": torch.rand(3, HEIGHT, WIDTH, generator=generator),
        "semseg": torch.randint(0, 13, (HEIGHT, WIDTH), generator=generator).where(known, 255),
        "depth": (torch.rand(HEIGHT, WIDTH, generator=generator) + 0.5).where(known, 0),
        "normals": unit(torch.randn(3, HEIGHT, WIDTH, generator=generator), 0).where(known, 0),
    }


@pytest.fixture(scope="module")
def rooms():
    return [dataclasses.replace(sample_room(8, "train", index), noise=0.0) for index in range(4)]


# Turns and mirroring that are exact


@pytest.mark.parametrize("columns", [1, 23, -32])
def test_yaw_shows_what_the_turned_camera_sees(rooms, columns):
    degrees = columns * 360 / WIDTH
    for room in rooms:
        turned, seen = rotate_sample(sample_of(room), rotation_matrix(degrees)), sample_of(room.turned(degrees))
        assert (turned["semseg"] == seen["semseg"]).float().mean() > 0.999
        close = (turned["depth"] - seen["depth"]).abs() < 1e-5 * seen["depth"]
        assert close.float().mean() > 0.999
        assert (turned["normals"] - seen["normals"])[:, close].abs().max() < 2e-4
        # The shadow map is cast again in another orientation, so that edges of shadows move a little.
        assert (turned["image"] - seen["image"]).abs().mean() < 4e-3


def mirrored(room):
    """The same room behind a mirror across x."""
    return dataclasses.replace(
        room,
        frames=room.frames * np.array([-1, 1, -1]),
        lower=np.where([True, False, False], -room.upper, room.lower),
        upper=np.where([True, False, False], -room.lower, room.upper),
        camera=room.camera * np.array([-1, 1, 1]),
        yaw=-room.yaw,
    )


def test_mirroring_shows_the_mirrored_room(rooms):
    for room in rooms:
        ours, seen = mirror_sample(sample_of(room)), sample_of(mirrored(room))
        assert (ours["semseg"] == seen["semseg"]).float().mean() > 0.999
        close = (ours["depth"] - seen["depth"]).abs() < 1e-5 * seen["depth"]
        assert close.float().mean() > 0.999
        assert (ours["normals"] - seen["normals"])[:, close].abs().max() < 2e-5


def test_a_mirrored_pixel_shows_the_mirrored_point():
    sample, flip = noise(), torch.tensor([-1.0, 1, 1])[:, None, None]
    ours = mirror_sample(sample)
    points, before = (depth_to_points(maps["depth"][None, None])[0] for maps in (ours, sample))
    torch.testing.assert_close(points, before.flip(-1) * flip)
    # Distances between points, and angles between normals and rays, are those of the world before.
    assert torch.allclose((ours["normals"] * points).sum(0), (sample["normals"] * before).sum(0).flip(-1), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 9))
def test_mirroring_twice_changes_nothing(seed):
    sample = noise(seed)
    twice = mirror_sample(mirror_sample(sample))
    assert all(torch.equal(twice[key], sample[key]) for key in MAPS)


@settings(max_examples=30, deadline=None)
@given(st.integers(-100, 100))
def test_turning_back_changes_nothing(columns):
    sample = noise()
    turned = rotate_sample(sample, rotation_matrix(columns * 360 / WIDTH))
    assert torch.equal(turned["semseg"], torch.roll(sample["semseg"], -columns, -1))
    back = rotate_sample(turned, rotation_matrix(-columns * 360 / WIDTH))
    assert all(torch.equal(back[key], sample[key]) for key in ("image", "semseg", "depth"))
    assert torch.allclose(back["normals"], sample["normals"], atol=1e-6)


# Rotations that resample


def around(directions, radii):
    """Directions (N, 3), and for every radius eight of them in a circle about each: (K, N, 3)."""
    aside = np.cross(directions, np.where(np.abs(directions[:, 1:2]) < 0.9, [[0.0, 1, 0]], [[1.0, 0, 0]]))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    other, rings = np.cross(directions, aside), [directions]
    for radius in radii:
        for angle in np.arange(8) * np.pi / 4:
            edge = np.cos(angle) * aside + np.sin(angle) * other
            rings.append(np.cos(radius) * directions + np.sin(radius) * edge)
    return np.stack(rings)


@pytest.mark.parametrize(
    ("index", "angles"), [(0, (10, 7, 3)), (1, (75, -12, 9)), (2, (-130, 80, 60)), (3, (0, 0, 180))]
)
def test_a_rotated_sample_is_the_room_seen_by_the_rotated_camera(rooms, index, angles):
    room, rotation = rooms[index], rotation_matrix(*angles, dtype=torch.float64)
    ours = rotate_sample(sample_of(room), rotation)
    rays = rotate_rays(erp_rays(HEIGHT, WIDTH, dtype=torch.float64), rotation).reshape(-1, 3).numpy()
    directions = around(rays, [HALF_PIXEL * share for share in (0.5, 1, 1.5, 2)])
    hits = [reference(room, ring) for ring in directions]
    primitive, distance, normal = hits[0]
    # Away from edges, where the pixels that may be taken into account show the same flat face.
    flat = (room.kinds[primitive] == BOX) & np.all([p == primitive for p, _, _ in hits], axis=0)
    flat &= np.all([np.abs(n - normal).max(1) < 1e-9 for _, _, n in hits], axis=0)
    assert flat.mean() > 0.2
    assert (ours["semseg"].numpy().ravel() == room.labels[primitive])[flat].all()
    seen = normal @ rotation.numpy()  # in the frame of the new camera
    assert np.abs(ours["normals"].flatten(1).T.numpy() - seen)[flat].max() < 2e-5
    # The pixel that was taken lies up to half a pixel off, on the same plane.
    incidence = np.arccos(np.clip(-(normal * rays).sum(1), -1, 1))
    near, far = (
        distance * np.cos(incidence) / np.cos(np.clip(incidence + shift, 0, 1.57))
        for shift in (-HALF_PIXEL, HALF_PIXEL)
    )
    depth = ours["depth"].numpy().ravel()
    assert ((depth > np.minimum(near, distance) * 0.9999) & (depth < far * 1.0001))[flat].all()


@settings(max_examples=30, deadline=None)
@given(ROTATIONS)
def test_all_maps_take_the_same_nearest_pixel(rotation):
    number = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    sample = {"semseg": number, "depth": 1 + number.float(), "confidence": number / (HEIGHT * WIDTH)}
    ours = rotate_sample(sample, rotation)
    assert torch.equal(1 + ours["semseg"].float(), ours["depth"])
    assert torch.equal(ours["semseg"] / (HEIGHT * WIDTH), ours["confidence"])
    rays = erp_rays(HEIGHT, WIDTH, dtype=torch.float64)
    taken, wanted = rays.view(-1, 3)[ours["semseg"]], rotate_rays(rays, rotation)
    assert ((taken - wanted).norm(dim=-1) <= 1.001 * HALF_PIXEL).all()


@settings(max_examples=30, deadline=None)
@given(ROTATIONS)
def test_smooth_images_and_normals_are_met_between_pixels(rotation):
    def image_of(rays):
        x, y, z = rays.movedim(-1, 0)
        return torch.stack((0.5 + 0.3 * x, 0.5 + 0.2 * y * z + 0.2 * x, 0.5 - 0.3 * x * z))

    def normals_of(rays):
        return unit(rays.movedim(-1, 0) * torch.tensor([-1.0, -0.8, -0.7])[:, None, None], 0)

    rays, turned = (
        directions.float() for directions in (erp_rays(64, 128), rotate_rays(erp_rays(64, 128), rotation.float()))
    )
    ours = rotate_sample({"image": image_of(rays), "normals": normals_of(rays)}, rotation)
    # Squared step times an eighth of the second derivatives: 0.05 squared, times 0.6 at most in each direction.
    assert (ours["image"] - image_of(turned)).abs().max() < 0.05**2 / 8 * 2 * 0.6 * 2
    expected = rotate_rays(normals_of(turned).movedim(0, -1), rotation.mT).movedim(-1, 0)
    assert (ours["normals"] - expected).norm(dim=0).max() < 1.5e-3


@settings(max_examples=30, deadline=None)
@given(ROTATIONS, st.integers(0, 9))
def test_holes_stay_holes_and_labels_stay_labels(rotation, seed):
    sample = noise(seed)
    ours = rotate_sample(mirror_sample(sample), rotation)
    hole = ours["semseg"] == 255
    assert 0.05 < hole.float().mean() < 0.6
    assert torch.equal(ours["depth"] == 0, hole) and torch.equal((ours["normals"] == 0).all(0), hole)
    assert ((ours["normals"].norm(dim=0) - 1).abs() < 1e-5)[~hole].all()
    assert set(ours["semseg"].unique().tolist()) <= set(sample["semseg"].unique().tolist())
    assert set(ours["depth"].unique().tolist()) <= set(sample["depth"].unique().tolist())
    assert ours["image"].min() >= 0 and ours["image"].max() <= 1


# The transform as a whole


EVERYTHING = {"mirror": 0.5, "tilt": 0.5, "rotation": 0.2, "photometric": 0.7}


@pytest.mark.parametrize("keys", [MAPS, ("image",), ("semseg", "depth"), ("normals",), ()])
def test_any_key_may_be_absent_and_unknown_ones_stay(keys):
    full, augmentation = noise(), Augmentation(**EVERYTHING)
    sample = {"id": "a", "scale": torch.tensor(2.0), "heat": full["depth"]} | {key: full[key] for key in keys}
    copy = pickle.loads(pickle.dumps(sample))  # noqa: S301
    whole = full | {"id": "a"}
    for epoch in range(8):
        augmentation.set_epoch(epoch)
        ours = augmentation(sample)
        assert list(ours) == list(sample)
        assert all(ours[key] is sample[key] for key in ("id", "scale", "heat"))
        reference = augmentation(whole)
        for key in keys:
            assert ours[key].shape == sample[key].shape and ours[key].dtype == sample[key].dtype
            assert torch.equal(ours[key], reference[key])
    assert all(torch.equal(sample[key], copy[key]) for key in keys)


def test_the_result_depends_on_seed_epoch_and_id_only():
    sample, one, other = noise(), Augmentation(**EVERYTHING, seed=3), Augmentation(**EVERYTHING, seed=3)
    for name in "abc":
        other(sample | {"id": name})  # what went before does not matter
    other.set_epoch(7)
    one.set_epoch(7)
    again = pickle.loads(pickle.dumps(one))  # noqa: S301
    first = one(sample)
    for augmentation in (one, other, again):
        assert all(torch.equal(augmentation(sample)[key], first[key]) for key in MAPS)
    one.set_epoch(8)
    assert not torch.equal(one(sample)["image"], first["image"])
    assert not torch.equal(other(sample | {"id": "x"})["image"], first["image"])
    strange = Augmentation(**EVERYTHING, seed=4)
    strange.set_epoch(7)
    assert not torch.equal(strange(sample)["image"], first["image"])


def turned(axis, count, **arguments):
    """Where a direction (3,) goes in many samples: (count, 3)."""
    augmentation = Augmentation(**{"yaw": 0.0, "mirror": 0.0} | arguments)
    maps = torch.tensor(axis)[:, None, None].expand(3, 4, 8)
    return torch.stack([augmentation({"id": str(i), "normals": maps})["normals"][:, 0, 0] for i in range(count)])


def test_tilts_are_as_large_as_wanted_and_go_anywhere():
    for yaw in (0.0, 1.0):
        up = turned([0.0, 1.0, 0.0], 400, tilt=1.0, max_tilt=30.0, yaw=yaw)
        angle = torch.rad2deg(torch.atan2(up[:, [0, 2]].norm(dim=1), up[:, 1]))
        assert angle.max() <= 30.001 and abs(angle.mean() - 15) < 2
        for x, z in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            share = ((up[:, 0] * x > 0) & (up[:, 2] * z > 0)).float().mean()
            assert 0.15 < share < 0.35


def test_full_rotations_are_uniform():
    matrices = torch.stack([turned(axis, 300, rotation=1.0) for axis in torch.eye(3).tolist()], -1)
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(300), atol=1e-4)
    # Every entry of a random rotation has mean 0 and mean square 1/3; here are five standard deviations.
    assert matrices.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 300)
    assert (matrices.square().mean(0) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / 300)
    # So has the trace, whose mean square is 1: the axes are not turned independently of one another.
    trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
    assert trace.mean().abs() < 5 / math.sqrt(300) and abs(trace.square().mean() - 1) < 5 * math.sqrt(2 / 300)


def test_every_change_has_its_probability_and_yaw_every_column():
    number = torch.arange(16.0).expand(8, 16)
    augmentation = Augmentation(yaw=0.5, mirror=0.25)
    depths = [augmentation({"id": str(i), "depth": number + 1})["depth"][0] - 1 for i in range(800)]
    is_mirrored = torch.stack([((depth[1] - depth[0]) % 16) == 15 for depth in depths])
    assert abs(is_mirrored.float().mean() - 0.25) < 0.08
    first = torch.stack([15 - depth[0] if flip else depth[0] for depth, flip in zip(depths, is_mirrored, strict=True)])
    counts = torch.bincount(first.long(), minlength=16)
    assert abs(counts[0] / 800 - (0.5 + 0.5 / 16)) < 0.1 and counts.min() > 5


def test_one_probability_does_not_disturb_the_other_changes():
    sample = noise()
    for name in "abcdef":
        plain, more = (Augmentation(**extra)(sample | {"id": name}) for extra in ({}, {"photometric": 1.0}))
        assert all(torch.equal(plain[key], more[key]) for key in ("semseg", "depth", "normals"))
        assert not torch.equal(plain["image"], more["image"])


# Photometric changes


def photometric(**arguments):
    return Augmentation(**{"yaw": 0.0, "mirror": 0.0, "photometric": 1.0} | arguments)


def test_only_the_image_changes_its_colours():
    sample = noise()
    changes = []
    for strength in (0.0, 0.5, 2.0):
        ours = photometric(strength=strength)(sample)
        assert all(torch.equal(ours[key], sample[key]) for key in ("semseg", "depth", "normals"))
        image = ours["image"]
        assert image.dtype == torch.float32 and image.shape == sample["image"].shape and image.is_contiguous()
        assert image.min() >= 0 and image.max() <= 1
        changes.append((image - sample["image"]).abs().mean())
    assert changes[0] < 1 / 255 and changes[0] < changes[1] < changes[2]


def test_transforms_of_albumentations_are_applied_in_order():
    sample = noise()
    square = {"RandomGamma": {"gamma_limit": [200, 200], "p": 1}}
    add = {
        "RandomBrightnessContrast": {
            "brightness_limit": [0.1, 0.1],
            "contrast_limit": [0, 0],
            "brightness_by_max": True,
            "p": 1,
        }
    }
    ours = photometric(transforms=[square, add])(sample)["image"]
    torch.testing.assert_close(ours, (sample["image"] ** 2 + 0.1).clamp(max=1), atol=1e-3, rtol=0)
    ours = photometric(transforms=[add, square])(sample)["image"]
    torch.testing.assert_close(ours, (sample["image"] + 0.1).clamp(max=1) ** 2, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="`id`"):
        photometric()({"image": sample["image"]})


def test_transforms_draw_independently():
    gamma = {"RandomGamma": {"gamma_limit": [200, 200], "p": 0.5}}
    grey = {"ToGray": {"p": 0.5}}
    image = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 8, 16)
    augmentation = photometric(transforms=[gamma, grey])
    seen = [augmentation({"id": str(i), "image": image})["image"] for i in range(100)]
    colours = torch.stack([x[:, 0, 0] for x in seen]).mul(1000).round().unique(dim=0)
    assert len(colours) == 4  # neither, one, the other, both


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"yaw": 1.5}, "yaw is a probability"),
        ({"rotation": -0.1}, "rotation is a probability"),
        ({"max_tilt": 200.0}, "max_tilt"),
        ({"strength": 3.0}, "strength"),
        ({"transforms": []}, "photometric is 0"),
        ({"photometric": 1.0, "transforms": [{"HorizontalFlip": {}}]}, "HorizontalFlip is not a transform"),
        ({"photometric": 1.0, "transforms": [{"Compose": {}}]}, "Compose is not a transform"),
        ({"photometric": 1.0, "transforms": [{"Sepia": {}}]}, "Sepia is not a transform"),
        ({"photometric": 1.0, "transforms": [{"RandomGamma": {"gama": 1}}]}, "RandomGamma refuses"),
        ({"photometric": 1.0, "transforms": [{"RandomGamma": {"gamma_limit": "much"}}]}, "RandomGamma refuses"),
        ({"photometric": 1.0, "transforms": [{"ToGray": {}, "RandomGamma": {}}]}, "one name"),
    ],
)
def test_refuses_bad_arguments_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Augmentation(**arguments)
    assert "\n" not in str(caught.value)


def test_albumentations_is_imported_only_when_colours_change(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    Augmentation(tilt=1.0)(noise())
    with pytest.raises(ImportError):
        Augmentation(photometric=1.0)


def test_a_configuration_names_it():
    parser = ArgumentParser()
    parser.add_argument("--augmentation", type=Augmentation | None)
    text = "{class_path: Augmentation, init_args: {tilt: 0.5, photometric: 1, transforms: [{ToGray: {p: 1.0}}]}}"
    ours = parser.instantiate(parser.parse_args(["--augmentation", text])).augmentation
    image = ours(noise())["image"]
    assert torch.equal(image[0], image[1]) and ours.probabilities["tilt"] == 0.5
