import pytest
import torch
from torch import nn

from mtpano_zoo.layers import SphereConv2d
from mtpano_zoo.layers import winograd as module
from mtpano_zoo.layers.winograd import WinogradConv2d, suits_winograd


@pytest.mark.parametrize("kind", [nn.Conv2d, SphereConv2d])
@pytest.mark.parametrize("size", [(4, 8), (16, 32), (5, 7), (2, 4), (1, 2), (9, 131)])
@pytest.mark.parametrize("bias", [True, False])
def test_computes_what_the_convolution_computes(kind: type[nn.Conv2d], size: tuple[int, int], bias: bool) -> None:
    convolution = kind(5, 7, 3, padding=1, bias=bias).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    torch.testing.assert_close(WinogradConv2d(convolution)(x), convolution(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tiles", [1, 3, 1000])
def test_any_number_of_tiles_at_a_time(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILES_AT_A_TIME", tiles)
    convolution = SphereConv2d(3, 4, 3, padding=1).double()
    x = torch.randn(2, 3, 10, 20, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(WinogradConv2d(convolution)(x), convolution(x), rtol=1e-10, atol=1e-10)


def test_loses_little_in_float32() -> None:
    convolution = nn.Conv2d(256, 256, 3, padding=1)
    x = torch.randn(1, 256, 16, 32)
    exact = nn.functional.conv2d(x.double(), convolution.weight.double(), convolution.bias.double(), padding=1)
    assert (WinogradConv2d(convolution)(x) - exact).abs().max() < 3e-5 * exact.abs().max()


@pytest.mark.parametrize("layer", [
    nn.Conv2d(4, 4, 3, padding=1, stride=2),
    nn.Conv2d(4, 4, 3),
    nn.Conv2d(4, 4, (3, 9), padding=(1, 4)),
    nn.Conv2d(4, 4, 3, padding=1, groups=4),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(4, 4, 1),
    nn.Linear(4, 4),
])  # fmt: skip
def test_other_layers_do_not_suit(layer: nn.Module) -> None:
    assert not suits_winograd(layer)
    assert suits_winograd(nn.Conv2d(4, 4, 3, padding=1))
