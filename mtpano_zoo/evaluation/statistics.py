"""Statistics of a set from the values of its images: ratios of sums, bootstrap intervals, a paired comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ("Interval", "Value", "bootstrap", "compare", "value_of")

# A ratio [sum, divisor], or several by name, of which the largest counts: the worst case.
Value = Sequence[float] | Mapping[str, Sequence[float]]
SAMPLES = 1000
ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval over the images.

    Attributes:
        value: value over all images.
        low: lower end.
        high: upper end.
        images: number of images.
    """

    value: float
    low: float
    high: float
    images: int


def _table(values: Sequence[Value | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums and divisors (N, K) of N images and K names; zero where an image has none."""
    plain = [{} if v is None else dict(v) if isinstance(v, Mapping) else {"": v} for v in values]
    names = list(dict.fromkeys(name for row in plain for name in row))
    table = np.array([[row.get(name, (0.0, 0.0)) for name in names] for row in plain], np.float64)
    table = table.reshape(len(values), len(names), 2)
    return table[..., 0], table[..., 1]


def _worst(sums: NDArray[np.float64], divisors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest ratio (...) of sums (..., K); NaN if there is none."""
    known = divisors > 0
    ratios = np.where(known, sums / np.where(known, divisors, 1), -np.inf)
    worst = ratios.max(-1, initial=-np.inf)
    return np.where(np.isneginf(worst), np.nan, worst)


def value_of(values: Sequence[Value | None]) -> float:
    """Return the ratio of the sums over images; the largest if there are several.

    Example:
        >>> value_of([[1.0, 1.0], [2.0, 3.0], None])
        0.75
    """
    sums, divisors = _table(values)
    return float(_worst(sums.sum(0), divisors.sum(0)))


@lru_cache(maxsize=4)
def _draws(images: int) -> NDArray[np.float64]:
    """Return how often each of S draws takes each of N images (S, N)."""
    generator = np.random.Generator(np.random.Philox(key=0))
    counts: NDArray[np.float64] = generator.multinomial(images, np.full(images, 1 / images), SAMPLES).astype(np.float64)
    return counts


def _ends(value: float, drawn: NDArray[np.float64], images: int) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if not known.size or np.isnan(value) or images < 2:  # one image says nothing about others
        return float("nan"), float("nan")
    low, high = np.percentile(known, ENDS)
    return float(low), float(high)


def bootstrap(values: Sequence[Value | None]) -> Interval:
    """Return the value over images with its 95 % percentile interval over 1000 draws with replacement.

    The ends are NaN for fewer than two images, here and in `compare`.

    Example:
        >>> bootstrap([[0.5, 1.0]] * 3)
        Interval(value=0.5, low=0.5, high=0.5, images=3)
    """
    known = [v for v in values if v is not None]
    if not known:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    sums, divisors = _table(known)
    draws = _draws(len(known))
    value = value_of(known)
    return Interval(value, *_ends(value, _worst(draws @ sums, draws @ divisors), len(known)), len(known))


def compare(first: Mapping[str, Value | None], second: Mapping[str, Value | None]) -> Interval:
    """Return the difference, first minus second, of two models over the images (by id) that both have.

    Both share every draw. A hard image is hard for both, so the interval is narrower than those of the two values.

    Example:
        >>> compare({"a": [1.0, 1.0], "b": [5.0, 1.0]}, {"a": [0.5, 1.0], "b": [4.5, 1.0]})
        Interval(value=0.5, low=0.5, high=0.5, images=2)
    """
    shared = [name for name in first if first[name] is not None and second.get(name) is not None]
    if not shared:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = _draws(len(shared))
    tables = [_table([model[name] for name in shared]) for model in (first, second)]
    drawn = [_worst(draws @ sums, draws @ divisors) for sums, divisors in tables]
    whole = [value_of([model[name] for name in shared]) for model in (first, second)]
    value = whole[0] - whole[1]
    return Interval(value, *_ends(value, drawn[0] - drawn[1], len(shared)), len(shared))
