import argparse
import itertools
import random

import numpy as np
import pytest
import torch

from mtpano_zoo import load_model
from mtpano_zoo.data import StreetsDataset
from mtpano_zoo.image_io import write_png
from mtpano_zoo.sphere import erp_rays, rotation_matrix

OPTIONS = {
    **{"source": "mtpano-small.photos", "teacher": None, "panoramas": None, "height": 64, "lean": 40.0, "turned": 0.5},
    **{"steps": 3, "every": 2, "lr": 1e-3, "relative_weight": 0.5, "keep": 2, "seed": 1},
}
LEARNED = {
    "depth": ("task_injectors.depth.", "adapters.depth.", "necks.depth.", "heads.depth."),
    # Nothing else is in its stream, so the bridge and what it adds are its own.
    "normals": (
        *("task_injectors.normals.", "adapters.normals.", "necks.normals.", "heads.normals."),
        *("bridges.variant.", "stream_injectors.variant."),
    ),
}


def options_of(task, **others):
    return argparse.Namespace(task=task, **OPTIONS | others)


def test_cameras_are_tilted_by_up_to_sixty_degrees(benchmark):
    tilts = [float(benchmark._turn(random.Random(seed), 0.5)[1, 1].acos().rad2deg()) for seed in range(300)]
    assert 0.4 < sum(tilt < 0.1 for tilt in tilts) / 300 < 0.6
    assert max(tilts) < 60.1 and 0.3 < sum(3 < tilt < 25 for tilt in tilts) / 300 < 0.5
    assert all(torch.equal(benchmark._turn(random.Random(seed), 0.0), torch.eye(3)) for seed in range(20))


@pytest.fixture(scope="module", params=["depth", "normals"])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def scenes(benchmark, task, tmp_path_factory):
    """Scenes whose cameras are not turned if the network labels them."""
    folder = tmp_path_factory.mktemp("photographs")
    write_png(folder / "one.png", np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))
    options = options_of(task, panoramas=folder, shares=(6.0, 1.5, 1.0, 2.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "_turn", lambda choice, turned: torch.eye(3))
        return list(itertools.islice(benchmark.Features(options), 14))


def test_targets_are_what_the_network_predicts_for_photographs(benchmark, task, scenes):
    assert {scene["kind"] for scene in scenes} >= {"streets", "homes", "photographs"}
    network, differences = load_model("mtpano-small.photos"), []
    for scene in scenes:
        target = scene["target"].float()
        assert target.shape == (1, 1 if task == "depth" else 3, 64, 128)
        known = target.isfinite().all(1)[0]
        assert known.any()
        if scene["kind"] != "photographs":
            continue
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = benchmark.decode(network, task, scene["inputs"], (64, 128)).float()
        if task == "depth":
            differences.append(float((found.log() - target)[0, :, known].abs().median()))
        else:
            differences.append(float((1 - torch.nn.functional.cosine_similarity(found, target))[0, known].median()))
    assert max(differences) < 0.02


def test_predicted_labels_turn_with_the_camera(benchmark, task):
    network, image = load_model("mtpano-small.photos"), torch.rand(1, 3, 64, 128)
    features = benchmark.Features(options_of(task))
    with torch.no_grad():
        still, turned = (features._taught(network, image, one) for one in (torch.eye(3), rotation_matrix(yaw=90)))
    rolled = still.roll(-32, -1)
    if task == "normals":  # a camera that turns right has what was ahead on its left, and what was on its right ahead
        rolled = torch.stack((-rolled[:, 2], rolled[:, 1], rolled[:, 0]), dim=1)
    assert torch.allclose(turned, rolled, atol=1e-5, equal_nan=True)


def test_true_labels_are_those_of_the_scenes(task, scenes):
    """Normals point towards the camera, and have length one; distances are at most a few kilometres."""
    for scene in scenes:
        target = scene["target"].float()
        known = target.isfinite().all(1)[0]
        if task == "normals" and scene["kind"] != "photographs":
            assert target[0][:, known].norm(dim=0).sub(1).abs().max() < 2e-3
            facing = (target[0] * erp_rays(64, 128).movedim(-1, 0)).sum(0)[known]
            assert (facing < 0.02).float().mean() > 0.99
        if task == "depth" and scene["kind"] == "streets":
            assert bool((target[0, 0][known].exp() < 2e4).all())


def test_the_sky_has_no_distance_and_the_rest_the_one_of_the_scene(benchmark):
    sample = StreetsDataset("val", 1, 64, 128)[0]
    distances = benchmark.Features(options_of("depth"))._true(sample)[0, 0]
    normals = benchmark.Features(options_of("normals"))._true(sample)[0]
    assert sample["far"].any() and torch.equal(distances.isnan(), sample["far"])
    assert torch.equal(normals.isnan().any(0), sample["far"])
    torch.testing.assert_close(distances.nan_to_num().exp()[~sample["far"]], sample["depth"][~sample["far"]])
    assert torch.equal(normals[:, ~sample["far"]], sample["normals"][:, ~sample["far"]])


def test_only_this_task_learns(benchmark, task, scenes, tmp_path):
    network = load_model("mtpano-small.photos")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    options = options_of(task, folder=tmp_path / "trained")
    benchmark.train(network, itertools.cycle(scenes), options)
    assert [path.name for path in options.folder.iterdir() if path.is_dir()] == ["step-2"]
    trained = load_model(options.folder).state_dict()
    changed = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in network.named_parameters() if name.startswith(LEARNED[task])}
    image = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        first, then = (load_model(one)(image) for one in ("mtpano-small.photos", options.folder))
    for other in network.tasks:
        assert torch.equal(first[other], then[other]) == (other != task)
