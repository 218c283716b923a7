"""Planted failures are what they are named after."""

import math

import pytest
import torch

from mtpano_zoo.training.label_failures import FAILURES

CHANCE = torch.tensor([0.1, 0.9])


@pytest.fixture
def depth():
    return 1 + 4 * torch.rand(2, 16, 32, generator=torch.Generator().manual_seed(0))


def test_scaled_is_half_or_twice(depth):
    torch.testing.assert_close(FAILURES["scaled"](depth, CHANCE), depth * torch.tensor([0.5, 2.0])[:, None, None])


def test_a_broken_seam_jumps_by_two_at_the_border_only(depth):
    ratio = FAILURES["seam_broken"](depth, CHANCE) / depth
    steps = (ratio.roll(-1, -1) / ratio).log()
    inside = math.log(2) / 32
    torch.testing.assert_close(steps[:, 0, :-1], torch.tensor([[-inside], [inside]]).expand(2, 31), atol=1e-5, rtol=0)
    assert steps[:, 0, -1].abs().tolist() == pytest.approx([31 * inside] * 2, abs=1e-4)


def test_holes_are_filled_with_the_median(depth):
    holes = depth.clone()
    holes[:, :4] = 0
    filled = FAILURES["filled"](holes, CHANCE)
    for i in range(2):
        known = holes[i, 4:].flatten().sort().values
        assert filled[i, :4].unique().tolist() == pytest.approx([float(known[(len(known) - 1) // 2])])
    assert torch.equal(filled[:, 4:], holes[:, 4:])
    assert torch.equal(FAILURES["filled"](depth, CHANCE), depth)


def test_others(depth):
    assert torch.equal(FAILURES["mirrored"](depth, CHANCE)[..., 3], depth[..., -4])
    assert torch.equal(FAILURES["copied"](depth, CHANCE), depth[[1, 0]])
    blurred = FAILURES["blurred"](depth, CHANCE)
    assert blurred.std() < 0.3 * depth.std()
    torch.testing.assert_close(FAILURES["blurred"](torch.full_like(depth, 3.0), CHANCE), torch.full_like(depth, 3.0))


@pytest.mark.parametrize("name", FAILURES)
def test_no_failure_makes_what_is_no_distance(name, depth):
    depth[0] = 0
    damaged = FAILURES[name](depth, CHANCE)
    assert damaged.shape == depth.shape and damaged.isfinite().all() and (damaged >= 0).all()
