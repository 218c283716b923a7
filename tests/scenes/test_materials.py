import numpy as np
import pytest

from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.materials import CHANNEL, FIELDS


def test_the_chances_of_every_role_sum_to_one():
    for role, makers in materials._ROLES.items():
        assert sum(weight for weight, _ in makers) == pytest.approx(1), role


@pytest.mark.parametrize("role", sorted(materials._ROLES))
def test_every_role_gives_sound_materials(role):
    rows = np.stack([materials.pick(np.random.default_rng(seed), role) for seed in range(40)])
    assert rows.shape == (40, len(FIELDS)) and rows.dtype == np.float32 and np.isfinite(rows).all()
    assert (rows[:, :6] >= 0).all() and (rows[:, :6] <= 1).all()
    assert (rows[:, [CHANNEL["cell_u"], CHANNEL["cell_v"]]] > 0).all()
    assert len(np.unique(rows, axis=0)) == 40


def test_colours_are_linear():
    assert materials.hsv(0.0, 0.0, 0.5) == (0.25, 0.25, 0.25)
    assert materials.hsv(1 / 3, 1.0, 1.0) == pytest.approx((0.0, 1.0, 0.0))
