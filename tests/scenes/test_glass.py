"""Clear glass against renders without the pane, and homes that have some."""

import dataclasses

import numpy as np
import pytest
import torch

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import materials, render, rendering, sample_home, sample_street
from mtpano_zoo.scenes.scene import BOX

GLASS = materials.CHANNEL["glass"]
NEARLY_OPAQUE = 1e-7  # casts no shadow, unlike an opaque pane
LABELS = {"window", "fence", "door", "table"}


def with_panes(scene, *shares):
    """The scene with panes in front of the camera, one behind the other.

    They come first, because the sky has the number of the first primitive.
    """
    count, height = len(shares), scene.camera[1]
    looks = [materials.material((0.1, 0.5, 0.3), noise=0.0, glass=share) for share in shares]
    near = 0.3 + 0.05 * np.arange(count)
    added = {
        "kinds": np.full(count, BOX, dtype=np.uint8),
        "labels": np.full(count, scene.classes.index("window"), dtype=np.uint8),
        "frames": np.tile([scene.camera[0], scene.camera[2], 0.4], (count, 1)),
        "lower": np.stack((np.full(count, -0.25), np.full(count, height - 0.2), near), axis=1),
        "upper": np.stack((np.full(count, 0.3), np.full(count, height + 0.25), near + 0.01), axis=1),
        "materials": np.stack(looks),
    }
    return dataclasses.replace(
        scene, noise=0.0, **{name: np.concatenate((rows, getattr(scene, name))) for name, rows in added.items()}
    )


def tone(light):
    return (light * (1 + 0.3 * light) / (1 + light)).sqrt()


def light_of(image):
    """The inverse of `tone`."""
    value = image.double() ** 2
    return (value - 1 + ((1 - value) ** 2 + 1.2 * value).sqrt()) / 0.6


# No mirror is behind the pane: it would be grey there.
SCENES = {
    "home": lambda: sample_home(0, "val", 0, version=2),
    "tilted home": lambda: sample_home(0, "val", 0, version=2).tilted(35.0, 0.7),
    "street": lambda: sample_street(0, "val", 1),
    "tilted street": lambda: sample_street(0, "val", 1).tilted(25.0, 2.0),
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", [0.4, 0.9, 1.0])
def test_the_light_is_a_mixture_of_the_pane_and_what_is_behind(name, share):
    scene = dataclasses.replace(SCENES[name](), noise=0.0)
    clear, opaque, without = (
        render([s], 64, 128) for s in (with_panes(scene, share), with_panes(scene, NEARLY_OPAQUE), scene)
    )
    pane = clear["depth"] != without["depth"]
    assert 0.02 < pane.float().mean() < 0.2
    # The distance, the normal and the class are those of the pane, and where there is none, nothing changes.
    assert all(torch.equal(clear[key], opaque[key]) for key in clear if key not in ("image", "id"))
    assert (clear["semseg"][pane] == SCENE_CLASSES.index("window")).all() and clear["depth"][pane].max() < 0.6
    assert not clear["far"][pane].any() if "far" in clear else scene.sky is None
    outside = ~pane[:, None].expand_as(clear["image"])
    assert torch.equal(clear["image"][outside], without["image"][outside])
    own, behind = light_of(opaque["image"]), light_of(without["image"])
    expected = tone(torch.lerp(own, behind, share))
    # What is too bright for the camera has lost its light.
    known = pane[:, None] & (without["image"] < 1)
    difference = (clear["image"] - expected).abs()[known] * 255
    assert known[:, 0].sum() > 0.5 * pane.sum()
    assert difference.mean() < 0.5 and (difference < 1.5).float().mean() > 0.99
    # It would be noticed: the pane differs from what is behind.
    assert (opaque["image"] - without["image"]).abs().amax(1)[pane].mean() > 0.1


def test_an_opaque_pane_is_just_a_pane_and_casts_a_shadow():
    scene = dataclasses.replace(SCENES["home"](), noise=0.0)
    lamp = np.array([[*(scene.camera + np.array([0.0, -0.9, 0.05])), 1.0, 1.0, 1.0]], dtype=np.float32)
    scene = dataclasses.replace(scene, lights=lamp)
    opaque, nearly, without = (
        render([s], 64, 128)["image"] for s in (with_panes(scene, 0.0), with_panes(scene, NEARLY_OPAQUE), scene)
    )
    pane = (nearly != without).any(1)
    changed = (opaque != without).any(1)
    assert (changed & ~pane).float().mean() > 0.005
    assert not ((opaque != nearly).any(1) & pane).any()


def test_only_the_first_pane_is_seen():
    scene = SCENES["home"]()
    one, two = render([with_panes(scene, 0.6)], 64, 128), render([with_panes(scene, 0.6, 0.5)], 64, 128)
    seen = one["depth"] == two["depth"]
    assert torch.equal(one["image"].movedim(1, -1)[seen], two["image"].movedim(1, -1)[seen])
    assert seen.float().mean() > 0.9


@pytest.fixture(scope="module")
def homes():
    return [sample_home(0, "val", index, version=3) for index in range(60)]


def glazed(scene, label):
    return bool(((scene.materials[:, GLASS] > 0) & (scene.labels == SCENE_CLASSES.index(label))).any())


def test_homes_of_the_third_version_have_glass(homes):
    share = {label: np.mean([glazed(scene, label) for scene in homes]) for label in LABELS}
    assert all(0.02 < value < 0.6 for value in share.values()), share
    assert 0.4 < np.mean([scene.materials[:, GLASS].any() for scene in homes]) < 0.95
    for scene in homes:
        assert {SCENE_CLASSES[i] for i in scene.labels[scene.materials[:, GLASS] > 0]} <= LABELS
        assert scene.materials[:, GLASS].max() < 0.95
    earlier = [sample_home(0, "val", index, version=version) for version in (1, 2) for index in range(60)]
    assert not any(scene.materials[:, GLASS].any() for scene in earlier)
    assert not {s.camera.tobytes() for s in homes} & {s.camera.tobytes() for s in earlier}
    batch = render(homes[:24], 24, 48)
    assert all(batch[key].isfinite().all() for key in ("image", "depth", "normals"))
    assert batch["depth"].min() > 0.1 and batch["depth"].max() < 30
    assert ((batch["normals"].norm(dim=1) - 1).abs() < 1e-4).all()


def test_glass_stands_clear_of_the_camera_and_of_solid_things(homes):
    """Points on the panes, in the frames of all other primitives; rails of their own frames hold them."""
    for number, scene in enumerate(homes):
        for pane in np.flatnonzero((scene.materials[:, GLASS] > 0) & (scene.kinds == BOX)):
            lower, upper = scene.lower[pane], scene.upper[pane]
            mesh = np.stack(np.meshgrid(*np.linspace(lower, upper, 11)[1:-1].T), axis=-1).reshape(-1, 3)
            x, z, yaw = scene.frames[pane]
            cos, sin = np.cos(yaw), np.sin(yaw)
            points = np.stack(
                (x + mesh[:, 0] * cos + mesh[:, 2] * sin, mesh[:, 1], z - mesh[:, 0] * sin + mesh[:, 2] * cos), 1
            )
            assert np.linalg.norm(points - scene.camera, axis=1).min() > 0.35, number
            for other in np.flatnonzero(np.abs(scene.frames - scene.frames[pane]).max(1) > 1e-9):
                x, z, yaw = scene.frames[other]
                dx, dz = points[:, 0] - x, points[:, 2] - z
                place = np.stack(
                    (
                        dx * np.cos(yaw) - dz * np.sin(yaw),
                        points[:, 1],
                        dx * np.sin(yaw) + dz * np.cos(yaw),
                    ),
                    axis=1,
                )
                inside = ((place > scene.lower[other] + 1e-6) & (place < scene.upper[other] - 1e-6)).all(1)
                names = [SCENE_CLASSES[scene.labels[i]] for i in (pane, other)]
                assert not inside.any() or "lamp" in names or "beam" in names, (number, names)


def test_neither_the_batch_nor_bands_nor_a_turn_change_it(homes, monkeypatch):
    first, second = [scene for scene in homes if glazed(scene, "window")][:2]
    scenes = [first, second, first.tilted(25.0, 1.0)]
    batch = render([*scenes, sample_home(0, "val", 0)], 32, 64)
    monkeypatch.setattr(rendering, "_BAND", 5 * 64)
    for i, scene in enumerate(scenes):
        assert torch.equal(render([scene], 32, 64)["image"][0], batch["image"][i])
    monkeypatch.undo()
    quiet = dataclasses.replace(first, noise=0.0)
    plain, turned = render([quiet], 64, 128), render([quiet.turned(-30 * 360 / 128)], 64, 128)
    pane = plain["semseg"].roll(30, -1) == SCENE_CLASSES.index("window")
    assert (turned["image"] - plain["image"].roll(30, -1)).abs().amax(1)[pane].mean() < 0.01


EARLIER = {
    1: (
        (244, 1085.497847, 438386.2250, 0.473424, 2.10954),
        (223, 331.507701, 360296.1527, 0.517486, 2.55496),
        (194, 537.954326, 313094.8190, 0.605391, 1.95621),
        (140, 461.563456, 242778.3020, 0.568780, 1.90145),
    ),
    2: (
        (186, 150.550867, 338864.9360, 0.569201, 2.38400),
        (194, 650.929455, 303261.2607, 0.637578, 2.20134),
        (112, 275.062647, 205657.2864, 0.516974, 2.31027),
        (254, 430.932926, 413293.5089, 0.427280, 2.21504),
    ),
}


@pytest.mark.parametrize("version", EARLIER)
def test_earlier_versions_are_what_they_were_before_there_was_glass(version):
    """Numbers of an earlier version of the package: other machines may differ by rounding, nothing more."""
    scenes = [sample_home(0, "val", index, version=version) for index in range(4)]
    batch = render(scenes, 24, 48)
    for i, (count, corner, looks, image, depth) in enumerate(EARLIER[version]):
        assert len(scenes[i].kinds) == count
        assert abs(scenes[i].lower.sum() - corner) < 1e-6 * abs(corner)
        assert abs(scenes[i].materials.astype(np.float64).sum() - looks) < 1e-6 * looks
        assert abs(batch["image"][i].mean().item() - image) < 1e-4
        assert abs(batch["depth"][i].mean().item() - depth) < 1e-3
