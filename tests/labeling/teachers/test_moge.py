"""The package `moge` is not on any index: a stand-in with its documented interface takes its place."""

import hashlib
import sys
from types import ModuleType

import pytest
import torch
from fake_moge import NORMAL, StandIn
from torch.testing import assert_close

from mtpano_zoo import sphere
from mtpano_zoo.labeling.teachers.base import ViewImages
from mtpano_zoo.labeling.teachers.moge import MoGe
from mtpano_zoo.labeling.views import Views


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Install the stand-in and return a function that writes a file of weights."""
    modules = {name: ModuleType(name) for name in ("moge", "moge.model", "moge.model.v2")}
    modules["moge.model.v2"].MoGeModel = StandIn
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(StandIn, "calls", [])

    def write(*heads):
        path = tmp_path / "model.pt"
        torch.save({"heads": list(heads)}, path)
        return path

    return write


def room(height=24, width=32):
    """Five views with different fields of view; the upper third of the second one is black."""
    intrinsics = sphere.intrinsics_from_fov(torch.tensor([40.0, 55.0, 60.0, 70.0, 75.0]), height, width)
    images = torch.full((5, 3, height, width), 0.5)
    images[1, :, : height // 3] = 0
    return ViewImages(images, Views(torch.eye(3).expand(5, 3, 3), intrinsics, height, width))


def test_depth_and_normals_are_those_of_the_plane_in_view(weights):
    seen = room()
    teacher = MoGe(str(weights("scale_head", "normal_head")), batch_size=2, resolution_level=4)
    labels = teacher(seen)
    assert [(call["count"], call["level"], call["fp16"]) for call in StandIn.calls] == [
        (2, 4, False),
        (2, 4, False),
        (1, 4, False),
    ]
    rays = sphere.perspective_rays(24, 32, intrinsics=seen.views.intrinsics, normalize=False)
    sky = (seen.images == 0).all(1)
    assert sky.any()
    assert_close(labels.depth, torch.where(sky, 0, -2 / (rays @ NORMAL)))
    assert_close(labels.normals, torch.where(sky[:, None], 0, NORMAL[None, :, None, None]))
    assert ((labels.normals * rays.movedim(-1, 1)).sum(1)[~sky] < 0).all()  # towards the camera
    assert torch.equal(labels.confidence, (~sky).float())
    assert labels.depth_kind == "metric" and not labels.along_ray and labels.probabilities is None
    for result in (labels.depth, labels.normals, labels.confidence):
        result += 1  # allowed outside inference mode


def test_heads_decide_what_is_given(weights):
    labels = MoGe(str(weights()))(room())
    assert labels.normals is None and labels.depth_kind == "scale_invariant"


def test_provenance_and_module(weights):
    path = weights("scale_head")
    teacher = MoGe(str(path), precision="float32")
    assert teacher.classes == () and teacher.provenance["revision"] is None
    assert teacher.provenance["sha256"] == {"model.pt": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert teacher.provenance["options"] == {"batch_size": 8, "resolution_level": 9, "precision": "float32"}
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.network.training


def test_views_that_it_cannot_be_told_of_are_refused(weights):
    seen = room()
    teacher = MoGe(str(weights()))
    for place, change in (((2, 0, 2), 3.0), ((2, 1, 1), 5.0)):
        intrinsics = seen.views.intrinsics.clone()
        intrinsics[place] += change
        views = Views(seen.views.rotations, intrinsics, 24, 32)
        with pytest.raises(ValueError, match="square pixels and their centre in the middle"):
            teacher(ViewImages(seen.images, views))


def test_refuses_what_makes_no_sense(weights, tmp_path):
    path = str(weights())
    for options, message in (
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"resolution_level": 10}, "resolution_level from 0 to 9"),
        ({"precision": "bfloat16"}, "precision must be float32 or float16"),
    ):
        with pytest.raises(ValueError, match=message):
            MoGe(path, **options)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        MoGe(str(tmp_path / "other.pt"))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moge", None)
    with pytest.raises(ValueError, match=r"pip install git\+https://github\.com/microsoft/MoGe\.git"):
        MoGe()


def test_what_the_network_fails_on_is_no_sky(weights):
    """NaN stays, so that the view is left out and counted."""
    seen = room()
    teacher = MoGe(str(weights("scale_head")))
    teacher.network.offset.data.fill_(torch.nan)
    sky = (seen.images == 0).all(1)
    assert torch.equal(teacher(seen).depth.isnan(), ~sky)
