import functools
import math

import pytest
import torch
from torch.testing import assert_close

from mtpano_zoo import sphere
from mtpano_zoo.labeling.teachers.base import ViewImages
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import Views

HEIGHT, WIDTH, SIZE, COUNT = 128, 256, 48, 12
NAMES = ("floor", "wall", "ceiling", "door")


def box_room(identity="room"):
    """The labels of an empty room of 4 x 3 x 6 m; the wall ahead is a door."""
    return {"id": identity} | {task: values.clone() for task, values in box_labels().items()}


@functools.cache
def box_labels():
    rays = sphere.erp_rays(HEIGHT, WIDTH)
    low, high = torch.tensor([-1.5, -1.2, -3.5]), torch.tensor([2.5, 1.8, 2.5])
    walls = torch.where(rays < 0, low, high) / torch.where(rays == 0, 1e-9, rays)
    depth, axis = walls.min(-1)
    sign = torch.gather(rays, -1, axis[..., None])[..., 0].sign()
    normals = torch.zeros(HEIGHT, WIDTH, 3).scatter(-1, axis[..., None], -sign[..., None])
    semseg = torch.where(axis == 1, torch.where(sign > 0, 0, 2), torch.where((axis == 2) & (sign > 0), 3, 1))
    return {"semseg": semseg, "depth": depth, "normals": normals.permute(2, 0, 1)}


def some_views(count=COUNT, size=SIZE, fov=90.0):
    yaw, pitch = torch.arange(count) * 77.0, (torch.arange(count) * 53.0) % 140 - 70
    intrinsics = sphere.intrinsics_from_fov(fov, size, size).expand(count, 3, 3).clone()
    return Views(sphere.rotation_matrix(yaw, pitch), intrinsics, size, size)


def label(sample=None, views=None, **options):
    views = some_views() if views is None else views
    images = torch.zeros(len(views), 3, views.height, views.width)
    return OracleTeacher(NAMES, **options)(ViewImages(images, views, box_room() if sample is None else sample))


def seen(task, mode, views=None, sample=None):
    """The truth in the views, by the rays of every pixel."""
    views = some_views() if views is None else views
    truth = (box_room() if sample is None else sample)[task]
    rays = sphere.perspective_rays(views.height, views.width, intrinsics=views.intrinsics, rotation=views.rotations)
    truth = truth[None, None] if truth.ndim == 2 else truth[None]
    return sphere.sample(truth, rays[None], mode)[0].movedim(0, 1)


@pytest.fixture(scope="module")
def truth():
    """Class, distance, z-depth and camera-frame normals of the default views."""
    views = some_views()
    distance = seen("depth", "depth")[:, 0]
    cosine = sphere.perspective_rays(SIZE, SIZE, fov=90.0)[..., 2]
    normals = torch.einsum("vij,vihw->vjhw", views.rotations, seen("normals", "vectors"))
    return {
        "semseg": seen("semseg", "label")[:, 0],
        "distance": distance,
        "z": distance * cosine,
        "normals": normals,
    }


def test_without_defects_it_tells_the_truth(truth):
    labels = label()
    assert labels.depth_kind == "metric" and not labels.along_ray and labels.confidence is None
    assert torch.equal(labels.probabilities.argmax(1), truth["semseg"])
    assert torch.equal(labels.probabilities.amax(1), torch.ones(COUNT, SIZE, SIZE))
    assert_close(labels.depth, truth["z"], rtol=1e-6, atol=1e-6)
    assert_close(label(along_ray=True).depth, truth["distance"], rtol=1e-6, atol=1e-6)
    assert_close(labels.normals, truth["normals"], atol=1e-4, rtol=0)  # interpolated
    rays = sphere.perspective_rays(SIZE, SIZE, fov=90.0).permute(2, 0, 1)
    assert (labels.normals * rays).sum(1).max() < 0


def test_draws_depend_on_seed_panorama_view_and_defect_only():
    defects = dict(
        scale=0.2, shift=0.1, noise=0.05, wrong_classes=0.3, border_shift=1.5, normals_noise=5.0, missing=0.1, bleed=1
    )
    first, again = label(**defects), label(**defects)
    others = label(**defects, seed=1), label(box_room("another"), **defects)
    fewer = label(views=some_views(COUNT // 2), **defects)
    for task in ("probabilities", "depth", "normals", "confidence"):
        assert torch.equal(getattr(first, task), getattr(again, task))
        assert not any(torch.equal(getattr(first, task), getattr(other, task)) for other in others)
        # Half of the views get what they get among all of them.
        assert torch.equal(getattr(first, task)[: COUNT // 2], getattr(fewer, task))
    assert torch.equal(label(scale=0.2, wrong_classes=0.5).depth, label(scale=0.2, normals_noise=9.0).depth)
    assert_close(label(scale=0.2, noise=0.1).depth / label(noise=0.1).depth, label(scale=0.2).depth / label().depth)


def test_scale_shift_and_noise_have_their_sizes(truth):
    # What is drawn once for a view shows in few pixels.
    few = some_views(size=SIZE // 4)
    z = seen("depth", "depth", few)[:, 0] * sphere.perspective_rays(SIZE // 4, SIZE // 4, fov=90.0)[..., 2]
    many = [label(box_room(str(i)), few, scale=0.2, tasks=["depth"]).depth / z for i in range(20)]
    factors = torch.stack(many).flatten(0, 1).flatten(1)
    assert_close(factors.amin(1), factors.amax(1), rtol=1e-5, atol=0)
    logs = factors[:, 0].log()
    assert abs(logs.std() - 0.2) < 0.03 and abs(logs.mean()) < 0.03

    offsets = []
    for i in range(20):
        depth = label(box_room(str(i)), few, shift=0.02, tasks=["depth"]).depth
        offset = (depth - z).flatten(1)
        assert_close(offset.amin(1), offset.amax(1), rtol=0, atol=1e-5)
        offsets.append(offset[:, 0] / z.flatten(1).median(1).values)
    assert abs(torch.cat(offsets).std() - 0.02) < 0.003

    noise = (label(noise=0.05).depth / truth["z"]).log()
    assert abs(noise.std() - 0.05) < 0.002 and noise.flatten(1).mean(1).abs().max() < 0.005
    assert (label(shift=3.0).depth >= 0).all() and (label(shift=3.0).depth == 0).any()


def test_scale_invariant_depth_and_disparity_hide_their_factor_and_offset(truth):
    free = label(depth_kind="scale_invariant")
    factor = (free.depth / truth["z"]).flatten(1)
    assert free.depth_kind == "scale_invariant"
    assert_close(factor.amin(1), factor.amax(1), rtol=1e-5, atol=0)
    assert factor.amin() >= 1 / 8 and factor.amax() <= 8 and factor[:, 0].log().std() > 0.5

    disparity = label(depth_kind="disparity")
    assert disparity.depth_kind == "disparity"
    for got, z in zip(disparity.depth.double(), truth["z"].double(), strict=True):
        design = torch.stack((1 / z.flatten(), torch.ones(z.numel())), 1)
        solution = torch.linalg.lstsq(design, got.flatten()[:, None]).solution
        assert_close(design @ solution, got.flatten()[:, None], rtol=1e-4, atol=1e-5)
        assert solution[0] > 0 and solution[1] >= -1e-4


def test_as_many_pixels_are_wrong_as_asked_and_they_err_in_patches(truth):
    wrong = torch.stack(
        [
            label(box_room(str(i)), wrong_classes=0.2, tasks=["semseg"]).probabilities.argmax(1) != truth["semseg"]
            for i in range(10)
        ]
    )
    assert abs(wrong.float().mean() - 0.2) < 0.02
    # Neighbours err together: changes from right to wrong are far rarer than the 32 % of independent pixels.
    assert (wrong[..., 1:] != wrong[..., :-1]).float().mean() < 0.08
    assert (wrong[0] != wrong[1]).any() and (label(wrong_classes=1.0).probabilities.argmax(1) != truth["semseg"]).all()


def test_probabilities_are_soft_and_coarse_as_asked(truth):
    soft = label(softness=0.4).probabilities
    assert_close(soft.sum(1), torch.ones(COUNT, SIZE, SIZE))
    assert_close(soft.amax(1), torch.full((COUNT, SIZE, SIZE), 0.6 + 0.1))
    coarse = label(stride=4).probabilities
    shares = torch.nn.functional.avg_pool2d(torch.nn.functional.one_hot(truth["semseg"], 4).movedim(-1, 1).float(), 4)
    assert_close(coarse, shares)
    with pytest.raises(ValueError, match="stride 5 does not divide"):
        label(stride=5)


def test_class_borders_move_by_as_many_pixels_as_asked():
    views = some_views(8, 96, 60.0)
    exact = label(views=views).probabilities.argmax(1)
    moved = label(views=views, border_shift=4.0).probabilities.argmax(1)
    directions = set()
    for before, after in zip(exact, moved, strict=True):
        best = max(
            (float((before.roll((y, x), (0, 1)) == after)[6:-6, 6:-6].float().mean()), y, x)
            for y in range(-6, 7)
            for x in range(-6, 7)
        )
        assert best[0] > 0.985
        if len(before.unique()) > 2:  # a single straight border does not tell a shift along it
            assert abs(math.hypot(best[1], best[2]) - 4) < 1
            directions.add(best[1:])
    assert len(directions) > 1


def test_edges_bleed_within_the_radius_and_planes_do_not():
    sample = box_room()
    # A plate in front of everything to the right, half as far as the wall behind it: an edge in depth.
    plate = torch.arange(WIDTH)[None] >= WIDTH // 2
    sample["depth"] = torch.where(plate, sample["depth"] / 2, sample["depth"])
    views = some_views(1, 64, 60.0)
    exact, smeared = (label(sample, views, bleed=radius) for radius in (0, 4))
    change = (smeared.depth / exact.depth - 1).abs()[0]
    assert change[8:-8, 31].min() > 0.15 and change[8:-8, 32].min() > 0.15  # either side of the edge
    assert change[24:40, :26].max() < 0.02 and change[24:40, 38:].max() < 0.02
    between = smeared.depth[0, 32, 29:35]
    assert (between.diff() < 0).all() and exact.depth[0, 32, 35] < between[-1] < between[0] < exact.depth[0, 32, 28]
    # Classes and normals mix too, in a room's edges only.
    views = some_views(4, 64)
    exact, smeared = (label(views=views, bleed=radius) for radius in (0, 3))
    mixed = smeared.probabilities.amax(1) < 0.999
    border = torch.nn.functional.max_pool2d(-exact.probabilities, 7, 1, 3) + exact.probabilities
    assert mixed.any() and (border.amax(1)[mixed] != 0).all()
    turned = (smeared.normals * exact.normals).sum(1) < 0.999
    assert turned.any() and turned.float().mean() < 0.4
    assert_close(smeared.normals.norm(dim=1), torch.ones(4, 64, 64))


def test_normals_are_off_by_the_angle_asked_for(truth):
    noisy = label(normals_noise=5.0).normals
    assert_close(noisy.norm(dim=1), torch.ones(COUNT, SIZE, SIZE))
    angle = torch.rad2deg(torch.acos((noisy * truth["normals"]).sum(1).clamp(-1, 1)))
    assert abs(angle.square().mean().sqrt() - 5) < 0.1


def test_nothing_is_said_of_missing_areas_and_holes_of_the_truth():
    shares = []
    for i in range(10):
        labels = label(box_room(str(i)), missing=0.25, scale=0.2, softness=0.1, noise=0.1, normals_noise=3.0)
        gone = labels.confidence == 0
        assert torch.equal(labels.confidence, (~gone).float())
        assert torch.equal(labels.depth == 0, gone) and torch.equal((labels.normals == 0).all(1), gone)
        assert torch.equal(labels.probabilities.sum(1) == 0, gone)
        shares.append(gone.float().mean())
    assert abs(sum(shares) / 10 - 0.25) < 0.05

    sample = box_room()
    hole = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    hole[40:90, 100:160] = True
    sample["semseg"][hole], sample["depth"][hole], sample["normals"][:, hole] = 255, 0, 0
    sample["hole"] = hole
    expected = seen("hole", "label", sample=sample)[:, 0]
    for options in ({}, {"bleed": 2}, {"noise": 0.1, "shift": 0.05, "depth_kind": "disparity", "normals_noise": 5.0}):
        labels = label(sample, **options)
        assert torch.equal(labels.depth == 0, expected) and labels.depth.isfinite().all()
        assert torch.equal((labels.normals == 0).all(1), expected)
        if "bleed" not in options:
            assert torch.equal(labels.probabilities.sum(1) == 0, expected)


def test_only_what_is_asked_for_is_given_and_needed():
    sample = box_room()
    del sample["semseg"], sample["normals"]
    labels = label(sample, tasks=("depth",))
    assert labels.probabilities is None and labels.normals is None and labels.depth is not None
    teacher = OracleTeacher(NAMES, tasks=["depth"], scale=0.1)
    assert teacher.classes == () and teacher.provenance["options"]["scale"] == 0.1
    with pytest.raises(ValueError, match="panorama room has no semseg, normals"):
        label(sample)
    with pytest.raises(ValueError, match="has class 3, but the oracle has 2 names"):
        OracleTeacher(("a", "b"))(ViewImages(torch.zeros(COUNT, 3, SIZE, SIZE), some_views(), box_room()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["colour"]}, "tasks must be some of"),
        ({"tasks": []}, "tasks must be some of"),
        ({"depth_kind": "inverse"}, "depth_kind must be one of"),
        ({"depth_kind": "disparity", "along_ray": True}, "inverse of z-depth"),
        ({"wrong_classes": 1.5}, "must be from 0 to 1"),
        ({"softness": 1.0}, "must be from 0 to 1"),
        ({"noise": -0.1}, "must not be negative"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"classes": ["one"]}, "at least two classes"),
    ],
)
def test_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        OracleTeacher(**options)
