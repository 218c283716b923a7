"""What a GPU computes is what a CPU computes, on a pretended one: nothing is left on the host."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pretended_gpu import OnGPU, PretendedGPU, held, put_on_gpu
from torch import Tensor

from mtpano_zoo import load_model
from mtpano_zoo.data import (
    Augmentation,
    HomesDataModule,
    HomesDataset,
    MixedDataModule,
    RoomsDataset,
    StreetsDataModule,
)
from mtpano_zoo.data.device_rendering import render_drawn
from mtpano_zoo.labeling.module import Labeler
from mtpano_zoo.labeling.teachers import OracleTeacher
from mtpano_zoo.labeling.views import TangentViews
from mtpano_zoo.sphere import rotate, rotation_matrix


def test_the_pretended_gpu_refuses_tensors_of_the_host() -> None:
    with PretendedGPU():
        x = torch.tensor([1.0, 2.0], device="cuda")
        y = torch.rand(2)
        assert x.device.type == "cuda" and x.mul_(2) is x and x.tolist() == [2.0, 4.0]
        for mixed in (
            lambda: x + y,
            lambda: y * x.sum(),
            lambda: y[x > 2],
            lambda: torch.where(x > 2, x, y),
            lambda: torch.stack([x, y]),
        ):
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()
        assert (x + torch.tensor(1.0)).device == x[torch.tensor([0])].device == y.to(x.device).device == x.device
        assert not isinstance(x.cpu(), OnGPU) and x[x > 2].cpu().tolist() == [4.0]
    assert not isinstance(torch.rand(2), OnGPU)


def test_scenes_are_rendered_and_changed() -> None:
    size, scenes = (16, 32), {"height": 16, "width": 32, "train_count": 2, "black_poles": 0.5}
    changes = Augmentation(yaw=1.0, mirror=0.5, tilt=0.5, photometric=1.0)
    sets: Any = {"homes": HomesDataModule(**scenes, version=3), "streets": StreetsDataModule(**scenes)}
    module = MixedDataModule(sets, augmentation=changes, batch_size=4, samples_per_epoch=4, render_on="device")
    (drawn,) = module.train_dataloader()
    expected = render_drawn(drawn, module.drawn_set, size, "cpu")
    with PretendedGPU():
        found = render_drawn(drawn, module.drawn_set, size, "cuda")
    assert found.keys() == expected.keys()
    for key in expected.keys() - {"id", "image"}:
        torch.testing.assert_close(held(found[key]), expected[key], msg=key)
    # The GPU changes colours by functions of its own.
    assert isinstance(found["image"], OnGPU)
    assert (held(found["image"]) - expected["image"]).abs().mean() < 0.005


def test_tilted_and_upright_panoramas_are_predicted_together() -> None:
    upright = HomesDataset("test", 1, 128, 256)[0]["image"]
    images = [upright, rotate(upright[None], rotation_matrix(pitch=25.0))[0].clamp(0, 1)]
    network = load_model("mtpano-small.photos", input_size=(64, 128))
    expected = network.predict(images, blend_seam=True, mask_sky=True)
    twin = put_on_gpu(copy.deepcopy(network))
    with PretendedGPU():
        found = twin.predict(images, blend_seam=True, mask_sky=True)
    assert found[0].up is None and found[1].up is not None
    for a, b in zip(found, expected, strict=True):
        assert a.up == b.up
        np.testing.assert_allclose(a.depth, b.depth, rtol=1e-3)
        np.testing.assert_allclose(a.normals, b.normals, atol=1e-3)
        assert (a.semseg == b.semseg).mean() > 0.99


def test_views_are_labelled_aligned_and_fused() -> None:
    sample = RoomsDataset("train", 1, 32, 64)[0]
    teachers = [OracleTeacher(noise=0.05, wrong_classes=0.1), OracleTeacher(tasks=["depth"], depth_kind="disparity")]
    options: Any = {"height": 32, "width": 64, "no_depth_classes": ["window"], "keep_views": True}
    labeler = Labeler(TangentViews(fov=60, overlap=0.1, size=24), teachers, **options)
    expected = labeler.encode(labeler.label("a", sample)).files
    labeler._device = torch.device("cuda", 0)  # where Lightning would have put it
    with PretendedGPU():
        there = {key: x.to("cuda") if isinstance(x, Tensor) else x for key, x in sample.items()}
        found = labeler.encode(labeler.label("a", there)).files
    assert {"semseg/merged.png", "depth/merged.png", "normals/merged.png"} < expected.keys()
    assert found == expected
