import torch
from torch import nn

from mtpano_zoo.layers import checkpointed


def test_gradients_and_running_statistics_are_those_of_a_plain_call() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    twin.load_state_dict(layers.state_dict())
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(1)
    layers(x).square().sum().backward()
    torch.manual_seed(1)
    checkpointed(twin, x).square().sum().backward()
    for name, value in layers.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    for plain, again in zip(layers.parameters(), twin.parameters(), strict=True):
        assert torch.equal(plain.grad, again.grad)
    assert twin[1].momentum == layers[1].momentum and twin[1].num_batches_tracked == 1


def test_what_is_computed_on_the_way_is_not_kept() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(8)))
    x = torch.randn(32, 64)

    def kept(call: object) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            call()
        return sum(sizes)

    assert kept(lambda: checkpointed(layers, x)) < kept(lambda: layers(x)) / 8
