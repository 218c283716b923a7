"""Short cuts in drawing scenes give what the long way gives, to the bit."""

import math

import numpy as np
import pytest

from mtpano_zoo.scenes.draws import Draws
from mtpano_zoo.scenes.homes import sample_home
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.plan import CELL, sample_plan
from mtpano_zoo.scenes.scene import ORIGIN, Builder, Frame


def test_numbers_are_those_of_numpy() -> None:
    ours, numpys = Draws(7), np.random.Generator(np.random.Philox(key=7))
    random = np.random.default_rng(0)
    for _ in range(200):
        low, high = sorted(random.normal(size=2).tolist())
        assert ours.uniform(low, high) == numpys.uniform(low, high)
        assert ours.uniform() == numpys.uniform()
        assert ours.random() == numpys.random()
        assert ours.random(3).tolist() == numpys.random(3).tolist()
        assert ours.normal() == numpys.normal()
        assert ours.integers(9) == numpys.integers(9)
        assert ours.choice([low, high, 3]) == numpys.choice([low, high, 3])
        assert ours.choice([0.0, high], p=[0.3, 0.7]) == numpys.choice([0.0, high], p=[0.3, 0.7])
        assert ours.choice(5) == numpys.choice(5)
        assert ours.uniform(0, 3, (2, 2)).tolist() == numpys.uniform(0, 3, (2, 2)).tolist()


def test_the_light_of_a_table_lamp_is_rounded_once() -> None:
    """In single precision throughout, this lamp would be one unit in the last place brighter."""
    room = sample_home(0, "val", 108)
    emission = room.materials[:, CHANNEL["emission"]]
    assert np.float32(0.11232631) in emission and np.float32(0.11232632) not in emission


@pytest.mark.parametrize("quarters", [-3, -1, 0, 1, 2, 5])
def test_a_box_along_the_axes_lies_where_rotation_puts_it(quarters: int) -> None:
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    for x0, x1, z0, z1, x, z in np.random.default_rng(1).normal(size=(20, 6)).tolist():
        builder = Builder()
        builder.box("wall", np.zeros(1), (x0, x1), (0.0, 1.0), (z0, z1), Frame(x, z, quarters * math.pi / 2))
        arrays = builder.arrays()
        xs = [x + a * cos + b * sin for a in (x0, x1) for b in (z0, z1)]
        zs = [z - a * sin + b * cos for a in (x0, x1) for b in (z0, z1)]
        assert arrays["frames"].tolist() == [list(ORIGIN)]
        assert arrays["lower"].tolist() == [[min(xs), -1.0, min(zs)]]
        assert arrays["upper"].tolist() == [[max(xs), 0.0, max(zs)]]


def test_a_footprint_is_found_as_if_every_cell_were_looked_at() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(10):
        plan = sample_plan(rng)
        for _ in range(40):
            frame = Frame(rng.uniform(0, plan.width), rng.uniform(0, plan.depth), rng.uniform(-4, 4))
            width, depth = rng.uniform(0.05, 2.5, 2).tolist()
            across, along = plan._distances(frame)
            under = plan.footprint(frame, width, depth)
            if under is not None:
                found += 1
                assert np.array_equal(under, (across < (width + CELL) / 2) & (along < (depth + CELL) / 2))
    assert found > 50
