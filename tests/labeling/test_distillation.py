"""Pseudo-labels of views against planes whose inverse z-depth is known."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.distillation import PublishedTeacherLabels, StoredLabels, TeacherLabels, z_disparity
from mtpano_zoo.labeling.teachers import OracleTeacher, Teacher, ViewLabels
from mtpano_zoo.labeling.views import CubeViews, TangentViews
from mtpano_zoo.losses import affine_invariant_l1
from mtpano_zoo.sphere import erp_rays


def floor(height=64):
    """Distances (H, 2H) to a floor 1.6 m below the camera and a ceiling 1 m above."""
    down = erp_rays(height, 2 * height)[..., 1]
    return torch.where(down > 0, 1.6 / down.clamp(min=1e-3), 1 / (-down).clamp(min=1e-3))


def batch_of(depth, **more):
    count = len(depth)
    names = [f"unlabelled/{i}" for i in range(count)]
    return {"image": torch.rand(count, 3, *depth.shape[-2:]), "depth": depth, "id": names} | more


def oracle(**defects):
    return OracleTeacher(tasks=["depth"], depth_kind="disparity", **defects)


def loss_of(labels, batch, disparity, step=0):
    found = labels(batch, step)
    cut = labels.cut(disparity, found)
    maps = (one.flatten(0, 1) for one in (cut, found.disparity, found.valid))
    return affine_invariant_l1(*maps)


VIEWS = [CubeViews(fov=90, size=32, turn=45), TangentViews(fov=60, overlap=0.1, size=24, turn=45)]


@pytest.mark.parametrize("views", VIEWS)
def test_the_truth_has_almost_no_loss_and_the_along_ray_one_has(views):
    """A teacher with a scale and a shift for every view: the inverse distances of the truth fit all of them."""
    batch = batch_of(torch.stack([floor(128), floor(128)]))
    labels = TeacherLabels(oracle(), views)
    truth = 1 / batch["depth"][:, None]
    assert loss_of(labels, batch, truth) < 0.04
    assert loss_of(labels, batch, 5 * truth) < 0.04  # its scale is free
    assert loss_of(labels, batch, 1 / truth) > 0.5
    # A shift is not: inverse z-depth is a product with the length of the ray, so views fix it.
    assert loss_of(labels, batch, truth + 1) > 0.1


@pytest.mark.parametrize("kind", ["disparity", "metric", "scale_invariant"])
@pytest.mark.parametrize("along_ray", [False, True])
def test_what_a_teacher_says_becomes_inverse_z_depth(kind, along_ray):
    if kind == "disparity" and along_ray:
        return
    views = CubeViews(fov=90, size=32)("a")
    depth = torch.full((6, 32, 32), 2.0)
    depth[0, 0, 0] = 0
    depth[1, 0, 0] = float("inf")
    confidence = torch.ones(6, 32, 32)
    confidence[2, 0, 0] = 0
    disparity, valid = z_disparity(ViewLabels(None, depth, kind, along_ray, confidence=confidence), views)
    assert valid.sum() == valid.numel() - 3
    side = torch.arange(32) / 16 - 31 / 32
    stretch = (1 + side[:, None] ** 2 + side**2).sqrt()
    expected = torch.full((32, 32), 2.0) if kind == "disparity" else (stretch / 2 if along_ray else stretch * 0 + 0.5)
    assert_close(disparity[5], expected)
    assert disparity.isfinite().all()


def test_turns_are_random_by_panorama_and_step_or_by_batch():
    batch = batch_of(torch.stack([floor(16)] * 2))
    single, whole = (TeacherLabels(oracle(), CubeViews(90, 16, 45), per_batch=flag) for flag in (False, True))
    own = single(batch, 3)
    assert not torch.equal(own.rotations[0], own.rotations[1])
    assert torch.equal(own.rotations, single(batch, 3).rotations)
    assert not torch.equal(own.rotations, single(batch, 4).rotations)
    alike = whole(batch, 3)
    assert torch.equal(alike.rotations[0], alike.rotations[1])
    assert not torch.equal(alike.rotations, whole(batch, 4).rotations)


def test_the_mask_means_what_it_says():
    depth = torch.stack([floor(64)])
    ignored = torch.zeros(1, 64, 128, dtype=torch.bool)
    ignored[:, 32:] = True
    labels = TeacherLabels(oracle(), CubeViews(90, 32))
    found = labels(batch_of(depth, ignored=ignored), 0)
    assert not found.valid[0, 5].any()  # down
    assert found.valid[0, 4].all()  # up
    assert 0.4 < found.valid[0, :4].float().mean() < 0.6
    labels = TeacherLabels(oracle(), CubeViews(90, 32, turn=45))  # turned, for a face that sees one plane is constant
    batch = batch_of(depth, ignored=ignored)
    wrong = 1 / depth[:, None]
    wrong[:, :, 40:] = 7.0
    assert 5 * loss_of(labels, batch, wrong) < loss_of(labels, batch_of(depth), wrong)


@pytest.mark.parametrize("kind", [TeacherLabels, PublishedTeacherLabels])
def test_of_a_panorama_of_which_nothing_counts_no_teacher_is_asked(kind):
    teacher = Watching()
    batch = batch_of(torch.stack([floor(32)] * 2), ignored=torch.stack([torch.zeros(32, 64), torch.ones(32, 64)]) > 0)
    found = kind(teacher)(batch, 0)
    assert len(teacher.seen) == 1
    assert found.valid.flatten(1).any(1).tolist() == [True, False] and found.disparity.isfinite().all()


class Watching(nn.Module, Teacher):
    """A teacher that records its inputs."""

    classes: tuple[str, ...] = ()

    def __init__(self):
        super().__init__()
        self.provenance = {"name": "watching"}
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, seen):
        self.seen.append(seen)
        return ViewLabels(depth=seen.images.mean(1) * self.scale, depth_kind="disparity")


def test_the_teacher_is_frozen_and_sees_the_clean_image():
    teacher = Watching()
    labels = TeacherLabels(teacher, CubeViews(90, 16))
    clean = torch.full((1, 3, 32, 64), 0.25)
    found = labels(batch_of(floor(32)[None], clean=clean), 0)
    assert not teacher.training and not teacher.scale.requires_grad
    assert_close(found.disparity, torch.full((1, 6, 16, 16), 0.25))
    assert teacher.seen[0].sample["id"] == "unlabelled/0"


def test_a_teacher_without_depth_is_refused():
    with pytest.raises(InputError, match="no depth"):
        TeacherLabels(OracleTeacher(tasks=["normals"]))(batch_of(floor(16)[None], normals=torch.zeros(1, 3, 16, 32)), 0)


def test_stored_labels_are_cut_as_predictions_are():
    depth = floor(64)[None]
    valid = torch.ones(1, 64, 128, dtype=torch.bool)
    valid[:, :, :64] = False
    stored = torch.where(valid, 3 / depth, float("nan"))
    labels = StoredLabels(CubeViews(90, 32))
    batch = batch_of(depth, disparity=stored, disparity_valid=valid)
    found = labels(batch, 0)
    assert found.disparity.isfinite().all()
    assert found.valid[0, 1].all() and not found.valid[0, 3].any()  # right, left
    assert loss_of(labels, batch, 1 / depth[:, None]) < 1e-3
    ignored = valid.clone()
    assert not labels(batch | {"ignored": ignored}, 0).valid.any()
    with pytest.raises(InputError, match="no stored disparity"):
        labels(batch_of(depth), 0)


def test_the_published_way_agrees_with_ours_where_half_a_pixel_is_little():
    batch = batch_of(floor(256)[None])
    labels = PublishedTeacherLabels(oracle(), size=32)
    assert loss_of(labels, batch, 1 / batch["depth"][:, None], step=2) < 0.08
    found = labels(batch, 2)
    # Its images and its cameras are of the same directions: a teacher that reads the image agrees with the geometry.
    watching = PublishedTeacherLabels(Watching(), size=32)
    batch["image"] = (1 / batch["depth"])[:, None].expand(-1, 3, -1, -1) / 2
    stretched = watching(batch, 2).disparity
    side = torch.arange(32) / 16 - 31 / 32
    stretch = (1 + side[:, None] ** 2 + side**2).sqrt()
    assert_close(found.turn, watching(batch, 2).turn)
    cut = labels.cut(1 / batch["depth"][:, None], found)
    assert (stretched * 2 * stretch / cut - 1).abs().median() < 0.03
