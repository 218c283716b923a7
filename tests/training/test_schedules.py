import math
from itertools import pairwise

import pytest

from mtpano_zoo.training import learning_rate_factor


def test_polynomial_is_the_published_formula():
    for step in range(100):
        assert learning_rate_factor(step, 100, power=0.9) == pytest.approx((1 - step / 100) ** 0.9, abs=1e-12)


def test_cosine_halves_in_the_middle_and_ends_at_zero():
    assert learning_rate_factor(0, 80, schedule="cosine") == 1.0
    assert learning_rate_factor(40, 80, schedule="cosine") == pytest.approx(0.5)
    assert learning_rate_factor(20, 80, schedule="cosine") == pytest.approx(0.5 + math.sqrt(0.125))
    assert learning_rate_factor(80, 80, schedule="cosine") == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["polynomial", "cosine", "constant"])
def test_warmup_rises_linearly_and_the_decay_starts_from_one(schedule):
    factors = [learning_rate_factor(step, 100, schedule=schedule, warmup_steps=10) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(1.0 if schedule == "constant" else 0.0)


def test_steps_beyond_the_end_and_endless_training():
    assert learning_rate_factor(150, 100) == 0.0
    assert learning_rate_factor(10**9, float("inf"), schedule="constant") == 1.0
    assert learning_rate_factor(3, 4, warmup_steps=4) == 1.0
    assert learning_rate_factor(4, 4, warmup_steps=4) == 1.0
