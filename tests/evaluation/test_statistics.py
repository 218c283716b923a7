import math

import numpy as np
import pytest

from mtpano_zoo.evaluation.statistics import bootstrap, compare, value_of


def test_the_interval_of_a_mean_is_that_of_theory():
    """The standard error of a mean of n is sigma / sqrt(n)."""
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap([(v, 1.0) for v in values])
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert found == bootstrap([(v, 1.0) for v in values])  # seeded


def test_a_ratio_adds_before_it_divides():
    assert value_of([(1.0, 2.0), (8.0, 2.0)]) == 9 / 4
    assert math.isnan(value_of([None, None]))
    assert math.isnan(bootstrap([]).value)


def test_the_worst_of_several_is_the_worst_mean_not_the_mean_of_the_worst():
    rows = [{"a": (0.0, 1.0), "b": (1.0, 1.0)}, {"a": (3.0, 1.0), "b": (0.0, 1.0)}]
    assert value_of(rows) == 1.5


def test_images_without_a_value_do_not_count():
    assert bootstrap([None, (2.0, 1.0)]).images == 1
    assert value_of([{"a": (1.0, 1.0)}, {"b": (5.0, 1.0)}, None]) == 5


def test_a_paired_difference_is_sharper_than_the_two_values():
    hard = np.random.default_rng(1).exponential(1, 60)
    first = {str(i): (v + 0.1, 1.0) for i, v in enumerate(hard)}
    second = {str(i): (v, 1.0) for i, v in enumerate(hard)}
    found = compare(first, second)
    assert found.value == pytest.approx(0.1) and found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    alone = bootstrap(list(first.values()))
    assert alone.high - alone.low > 0.3
    assert compare(first, first).value == 0
    assert math.isnan(compare(first, {"other": (1.0, 1.0)}).value)


def test_one_image_says_nothing_about_others():
    """An interval of no width would separate any two models."""
    for interval in (bootstrap([[0.5, 1.0], None]), compare({"a": [0.5, 1.0]}, {"a": [0.4, 1.0]})):
        assert interval.images == 1 and math.isnan(interval.low) and math.isnan(interval.high)
        assert not math.isnan(interval.value)
