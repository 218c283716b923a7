"""The up direction that an encoder's features show: votes that turn with the panorama, and what training finds."""

import math

import pytest
import torch
from torch import Tensor

from mtpano_zoo.layers import UpHead
from mtpano_zoo.sphere import erp_rays, rotation_matrix, unit

UP = torch.tensor([0.0, -1.0, 0.0])


def levels_of(up: Tensor, height: int = 8) -> list[Tensor]:
    """Return levels whose deepest one states how far above the horizon everything is, and nothing else."""
    above = erp_rays(height, 2 * height) @ up
    deepest = torch.stack((above, above.square()))[None]
    return [
        torch.zeros(1, 2, height, 2 * height),
        torch.zeros(1, 2, height, 2 * height),
        torch.zeros_like(deepest),
        deepest,
    ]


def degrees_between(one: Tensor, other: Tensor) -> float:
    return math.degrees(math.acos(min(1.0, float(one.detach() @ other))))


def test_the_answer_turns_with_the_panorama() -> None:
    torch.manual_seed(0)
    head = UpHead(3, width=8, depth=2).eval()
    levels = [torch.randn(1, 3, 8, 16) for _ in range(4)]
    up = head(levels)
    assert up.norm().item() == pytest.approx(1, abs=1e-5)
    for columns in (2, 6, 14):
        turn = rotation_matrix(yaw=columns * 360 / 16)  # of a camera that turns left sees everything further right
        turned = head([level.roll(columns, -1) for level in levels])
        torch.testing.assert_close(turned[0], turn @ up[0], atol=1e-5, rtol=0)


def test_votes_sum_to_the_answer_and_count_by_area() -> None:
    torch.manual_seed(0)
    head = UpHead(3, width=8, depth=1).eval()
    torch.nn.init.zeros_(head.vote.weight)  # the same vote with the same weight everywhere
    levels = [torch.randn(2, 3, 8, 16) for _ in range(4)]
    votes = head.votes(head.pooled(levels))
    torch.testing.assert_close(unit(votes.sum((2, 3))), head(levels))
    lengths = votes.norm(dim=1)
    edges = torch.linspace(math.pi / 2, -math.pi / 2, 5).sin()  # of the four rows that remain
    torch.testing.assert_close(lengths[0, :, 0] / lengths.sum((1, 2))[0] * 8, -edges.diff() / 2)


def test_training_finds_up_from_heights_above_the_horizon() -> None:
    torch.manual_seed(0)
    head = UpHead(2, width=16, depth=1)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)

    def drawn(tilt: float) -> Tensor:
        return rotation_matrix(yaw=360 * float(torch.rand(()))) @ rotation_matrix(pitch=tilt) @ UP

    for _ in range(120):
        ups = torch.stack([drawn(50 * float(torch.rand(()))) for _ in range(8)])
        levels = [torch.cat(level) for level in zip(*map(levels_of, ups), strict=True)]
        loss = (head(levels) - ups).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in head.parameters())
        optimizer.step()
    head.eval()
    errors = [degrees_between(head(levels_of(up))[0], up) for up in (drawn(tilt) for tilt in (0, 10, 20, 30, 40))]
    assert max(errors) < 6


def test_levels_of_any_size_will_do() -> None:
    head = UpHead(2, width=8, depth=1).eval()
    assert head([torch.rand(1, 2, 9, 18)] * 4).norm().item() == pytest.approx(1, abs=1e-5)
