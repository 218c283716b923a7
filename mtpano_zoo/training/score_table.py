"""Scores as text."""

from collections.abc import Mapping, Sequence

__all__ = ("as_table",)

PER_CLASS = "semseg/IoU/"


def as_table(results: Sequence[Mapping[str, float]]) -> str:
    """Return the scores of an evaluation as a table: four digits, classes in their order and after all other scores.

    Args:
        results: Scores by name for each of the data loaders, as `Trainer.test` returns them.

    Example:
        >>> print(as_table([{"test/depth/AbsRel": 0.125}]))
        test/depth/AbsRel  0.1250
    """
    named = {name: value for scores in results for name, value in scores.items()}
    rows = [(name, value) for name, value in named.items() if PER_CLASS not in name]
    rows += [(name, value) for name, value in named.items() if PER_CLASS in name]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value:#.4g}" for name, value in rows)
