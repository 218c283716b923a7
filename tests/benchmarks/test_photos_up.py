import argparse
import itertools
import random
import sys

import numpy as np
import pytest
import torch

from mtpano_zoo import load_model
from mtpano_zoo.image_io import write_png
from mtpano_zoo.layers import UpHead
from mtpano_zoo.prediction.small_image import encoder_levels
from mtpano_zoo.sphere import erp_rays

OPTIONS = {"source": "mtpano-small.photos", "share": 0.5, "seed": 0}


def test_cameras_are_tilted_by_up_to_sixty_degrees(benchmark):
    tilts = [float(benchmark._turn(random.Random(seed))[1, 1].clamp(-1, 1).acos().rad2deg()) for seed in range(300)]
    assert max(tilts) < 60.1 and 0.25 < sum(tilt < 5 for tilt in tilts) / 300 < 0.5
    assert 0.1 < sum(tilt > 35 for tilt in tilts) / 300 < 0.25


def test_up_is_where_the_sky_of_a_photograph_is(benchmark, monkeypatch, tmp_path):
    """Its upper half is white and its lower half black, so the sum of its rays by brightness points up."""
    shown = []
    monkeypatch.setattr(
        benchmark, "encoder_levels", lambda network, image: shown.append(image) or encoder_levels(network, image)
    )
    monkeypatch.setattr(benchmark, "_blacken_poles", lambda image, choice: None)
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:32] = 255
    write_png(tmp_path / "sky.png", pixels)
    views = benchmark.Views(argparse.Namespace(**OPTIONS | {"share": 1.0, "panoramas": tmp_path}))
    ups = [up for _, up in itertools.islice(views, 6)]
    rays = erp_rays(*shown[0].shape[-2:])
    for image, up in zip(shown, ups, strict=True):
        area = (1 - rays[..., 1].square()).sqrt()  # cosine of the latitude
        weight = (image[0].mean(0) - image.mean()) * area
        direction = torch.nn.functional.normalize((weight[..., None] * rays).sum((0, 1)), dim=0)
        assert float(direction @ up) > 0.995


def test_only_the_head_is_new(benchmark, monkeypatch, tmp_path):
    folder = tmp_path / "net"
    options = ["--views", "8", "--steps", "2", "--every", "1", "--batch", "4", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["photos_up.py", OPTIONS["source"], str(folder), *options])
    benchmark.main()
    before, after = load_model(OPTIONS["source"]), load_model(folder)
    assert isinstance(after.up_head, UpHead)
    old = {key: value for key, value in before.state_dict().items() if not key.startswith("up_head")}
    new = after.state_dict()
    assert all(torch.equal(value, new[key]) for key, value in old.items())
    assert not torch.equal(before.up_head.vote.weight, after.up_head.vote.weight)
    with pytest.raises(SystemExit):  # it replaces nothing
        benchmark.main()
