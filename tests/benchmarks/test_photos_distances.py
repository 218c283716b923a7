import argparse
import itertools
import random

import numpy as np
import pytest
import torch

from mtpano_zoo import load_model
from mtpano_zoo.image_io import write_png
from mtpano_zoo.sphere import rotation_matrix

OPTIONS = argparse.Namespace(steps=3, lr=1e-3, relative_weight=0.5, keep=2, seed=0)


def test_cameras_are_tilted_by_up_to_sixty_degrees(benchmark):
    tilts = [float(benchmark._turn(random.Random(seed))[1, 1].acos().rad2deg()) for seed in range(300)]
    assert 0.4 < sum(tilt < 0.1 for tilt in tilts) / 300 < 0.6
    assert max(tilts) < 60.1 and 0.3 < sum(3 < tilt < 25 for tilt in tilts) / 300 < 0.5


@pytest.fixture(scope="module")
def scenes(benchmark, tmp_path_factory):
    """Scenes whose cameras, except in streets, are turned around the vertical by a quarter."""
    folder = tmp_path_factory.mktemp("photographs")
    write_png(folder / "one.png", np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "_turn", lambda choice: rotation_matrix(yaw=90))
        return list(itertools.islice(benchmark.Features("mtpano-small.photos", folder, 64, seed=1), 12))


def test_features_are_what_the_network_decodes(scenes):
    """The network is exact under such turns, so what is decoded is what it predicted before, turned likewise."""
    assert {scene["kind"] for scene in scenes} >= {"streets", "photographs"}
    network, changes = load_model("mtpano-small.photos"), []
    for scene in scenes:
        target = scene["log_depth"].float().exp()
        assert target.shape == (1, 64, 128) and target.isfinite().any() and bool((target[target.isfinite()] > 0).all())
        if scene["kind"] != "streets":
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                depth = network.decode("depth", *scene["inputs"], (64, 128)).float()[:, 0]
            changes.append(float((depth / target).log().abs().nanmedian()))
    assert max(changes) < 0.02


def test_only_distances_learn(benchmark, scenes):
    network = load_model("mtpano-small.photos")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    mean = benchmark.train(network, itertools.cycle(scenes), OPTIONS)
    benchmark.decoder(network).load_state_dict(mean)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("task_injectors.depth.", "adapters.depth.", "necks.depth.", "heads.depth.")
    assert changed == {name for name, _ in network.named_parameters() if name.startswith(parts)}
