"""Resampling between panorama and cube; `tests/sphere` checks the coordinates."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mtpano_zoo.layers.cube import FromCube


@pytest.mark.parametrize("decay", [0.9, 0.95, 0.9999])
def test_averaged_weights_sample_at_the_same_places(decay):
    network = FromCube("sphere", 8, 16, 32)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for _ in range(10):
        averaged.update_parameters(network)
    faces = torch.rand(6, 2, 8, 8)
    torch.testing.assert_close(averaged(faces), network(faces))


def test_the_indices_follow_the_network_to_its_device():
    network = copy.deepcopy(FromCube("sphere", 8, 16, 32)).to("meta")
    assert network(torch.rand(6, 2, 8, 8, device="meta")).shape == (1, 2, 16, 32)
    assert network.neighbours.is_meta and network.bfloat16().neighbours.dtype == torch.int64
