"""Means over several processes: the gradients are those of one process with the joined batch."""

from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from processes import side_by_side
from torch import nn

from mtpano_zoo.losses import MultiTaskLoss, PublishedLoss
from mtpano_zoo.losses.means import mean, several_processes, weighted_mean
from mtpano_zoo.tasks import MAIN_TASKS, SAMPLE_MAPS
from mtpano_zoo.tasks import TASKS as ALL_TASKS

CLASSES, HEIGHT, WIDTH = 4, 8, 16
TASKS = tuple(MAIN_TASKS)
LABELS = tuple(dict.fromkeys(key for task in MAIN_TASKS.values() for key in task.labels))
# What the two processes lack; they also differ in the number of images and of holes.
LACKING = {
    "nothing": ((), ()),
    "depth": (("depth", "far"), ()),
    "far": (("far",), ()),
    "one each": (("semseg", "normals", "disparity_valid"), ("depth", "far")),
    "everything": ((), LABELS),
    "the same": (("normals",), ("normals",)),
}
LOSSES = {
    "plain": MultiTaskLoss,
    "weighted": partial(MultiTaskLoss, confidence_tasks=TASKS),
    "published": PublishedLoss,
}


class PixelNetwork(nn.Module):
    """Predicts everything for every pixel from its colour; no statistics, which would depend on the batch."""

    def __init__(self):
        super().__init__()
        self.channels = {name: task.channels or CLASSES for name, task in ALL_TASKS.items() if name != "range_masks"}
        self.heads = nn.ModuleDict({task: nn.Conv2d(3, n, 1) for task, n in self.channels.items()})
        self.auxiliary_heads = nn.ModuleDict({task: nn.Conv2d(3, self.channels[task], 1) for task in TASKS})

    def forward(self, image):
        outputs = {task: head(image) for task, head in self.heads.items()}
        return {
            **{task: outputs[task] for task in TASKS},
            "aux": {task: head(image) for task, head in self.auxiliary_heads.items()},
            "ext": {task: outputs[task] for task in outputs if task not in TASKS},
        }


def _network():
    torch.manual_seed(3)
    return PixelNetwork()


def _batch(rank):
    """Labels with holes, three images for one process and one for the other."""
    g = torch.Generator().manual_seed(rank)
    count, share = (3, 0.1) if rank == 0 else (1, 0.7)
    size = (count, HEIGHT, WIDTH)
    holes = torch.rand(4, *size, generator=g) < share
    normals = F.normalize(torch.randn(count, 3, HEIGHT, WIDTH, generator=g), dim=1)
    return {
        "image": torch.rand(count, 3, HEIGHT, WIDTH, generator=g),
        "semseg": torch.randint(0, CLASSES - rank, size, generator=g).masked_fill(holes[0], 255),
        "depth": (0.5 + 4 * torch.rand(size, generator=g)).masked_fill(holes[1], 0),
        "far": holes[1] & holes[2],
        "normals": normals.masked_fill(holes[2][:, None], 0),
        "disparity": torch.rand(size, generator=g),
        "disparity_valid": ~holes[3],
        "confidence": torch.rand(size, generator=g),
    }


def _part(rank, lacking):
    return {key: value for key, value in _batch(rank).items() if key not in LACKING[lacking][rank]}


def _joined(lacking):
    parts = [_batch(rank) for rank in range(2)]
    partial = {key for absent in LACKING[lacking] for key in absent}
    for part, absent in zip(parts, LACKING[lacking], strict=True):
        for key in absent:
            part[key] = torch.full_like(part[key], SAMPLE_MAPS[key].empty)
        part |= {f"has_{key}": torch.full((len(part["image"]),), key not in absent) for key in partial}
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _learn(network, loss, batch):
    network.zero_grad()
    losses = loss(network(batch["image"]), batch)
    losses["total"].backward()
    gradients = {name.removeprefix("module."): p.grad.clone() for name, p in network.named_parameters()}
    return {"losses": {name: value.detach() for name, value in losses.items()}, "gradients": gradients}


def _worker(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    assert several_processes()
    found = {}
    network = nn.parallel.DistributedDataParallel(_network())
    for lacking in LACKING:
        for name, loss in LOSSES.items():
            found[f"{lacking}, {name}"] = _learn(network, loss(), _part(rank, lacking))
    # Of a process without confidence the pixels count in full.
    batch = _batch(rank)
    if rank == 0:
        del batch["confidence"]
    found["confidence of one"] = _learn(network, MultiTaskLoss(confidence_tasks=TASKS), batch)
    if rank == 0:  # nobody else takes part
        with torch.no_grad():
            found["no gradients"] = MultiTaskLoss()(network.module(batch["image"]), batch)
        found["validation"] = MultiTaskLoss().eval()(network.module(batch["image"]), batch)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    side_by_side(_worker, folder, folder=folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["plain", "weighted"])
@pytest.mark.parametrize("lacking", LACKING)
def test_gradients_are_those_of_the_joined_batch(ranks, lacking, name):
    expected = _learn(_network(), LOSSES[name](), _joined(lacking))
    first, second = (rank[f"{lacking}, {name}"] for rank in ranks)
    for parameter, gradient in expected["gradients"].items():
        torch.testing.assert_close(first["gradients"][parameter], gradient, rtol=1e-4, atol=1e-6, msg=parameter)
        assert torch.equal(first["gradients"][parameter], second["gradients"][parameter])
    for term, value in expected["losses"].items():
        average = (first["losses"][term] + second["losses"][term]) / 2
        torch.testing.assert_close(average, value, rtol=1e-5, atol=1e-6, msg=term)
    for rank, absent in zip((first, second), LACKING[lacking], strict=True):
        for task, facts in MAIN_TASKS.items():
            trained = not set(absent) & set(facts.labels)
            assert (rank["losses"][task] > 0) == (rank["losses"][f"aux_{task}"] > 0) == trained, task


def test_labels_without_confidence_count_in_full_beside_others(ranks):
    batch = _joined("nothing")
    batch["confidence"][:3] = 1
    expected = _learn(_network(), MultiTaskLoss(confidence_tasks=TASKS), batch)
    for parameter, gradient in expected["gradients"].items():
        found = ranks[0]["confidence of one"]["gradients"][parameter]
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6, msg=parameter)


@pytest.mark.parametrize("lacking", LACKING)
def test_the_published_loss_takes_means_of_every_process(ranks, lacking):
    loss = PublishedLoss()
    alone = [_learn(_network(), loss, _part(rank, lacking)) for rank in range(2)]
    for rank, expected in zip(ranks, alone, strict=True):
        torch.testing.assert_close(rank[f"{lacking}, published"]["losses"], expected["losses"])
        for parameter, gradient in rank[f"{lacking}, published"]["gradients"].items():
            average = sum(each["gradients"][parameter] for each in alone) / 2
            torch.testing.assert_close(gradient, average, rtol=1e-4, atol=1e-6, msg=parameter)


def test_a_process_may_validate_alone(ranks):
    batch = {key: value for key, value in _batch(0).items() if key != "confidence"}
    expected = MultiTaskLoss()(_network()(batch["image"]), batch)
    for name in ("no gradients", "validation"):
        torch.testing.assert_close(ranks[0][name], expected)


def test_means_of_nothing_are_zero():
    values = torch.full((2, 3), torch.nan)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert weighted_mean(values, nothing) == weighted_mean(values, nothing, values) == 0
    assert mean(torch.tensor(0.0), torch.tensor(0)) == 0
    assert not several_processes()
