import pytest
import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import CNNEncoder
from mtpano_zoo.models import PDBridgeNet


def tiny(seed: int, width: int = 8) -> PDBridgeNet:
    torch.manual_seed(seed)
    encoder = CNNEncoder("tf_efficientnet_lite0", width=width, stride=8)
    return PDBridgeNet(encoder, tasks=("depth",), bridge_width=8, neck_widths=(8, 8, 8, 8), fusion_width=8)


def test_every_weight_is_the_weighted_mean(benchmark):
    first, second = tiny(0), tiny(1)
    expected = {key: (3 * value + second.state_dict()[key]) / 4 for key, value in first.state_dict().items()}
    first.card = {"results": [{"AbsRel": 0.1}]}
    network = benchmark.average([(3, first), (1, second)])
    assert "results" not in network.card
    averaged = network.state_dict()
    for key, value in averaged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key])


def test_other_networks_are_refused(benchmark):
    with pytest.raises(InputError, match="no average"):
        benchmark.average([(1, tiny(0)), (1, tiny(0, width=16))])
    with pytest.raises(InputError, match="positive sum"):
        benchmark.average([(0, tiny(0))])
