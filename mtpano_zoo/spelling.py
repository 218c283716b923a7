"""Names in messages: the right one for a misspelt one, and the first of many."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ("did_you_mean", "listed", "nearest")

LISTED = 8  # names before the rest is counted


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name spelt most like this one, or None if none is close; case does not matter.

    Example:
        >>> nearest("PDBridgNet", ["PDBridgeNet", "ToyNet"])
        'PDBridgeNet'
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(suggestion: str | None) -> str:
    """Return the end of a sentence that reports a wrong name: a question if there is a suggestion, else a full stop.

    Example:
        >>> did_you_mean("depth"), did_you_mean(None)
        ('; did you mean depth?', '.')
    """
    return "." if suggestion is None else f"; did you mean {suggestion}?"


def listed(names: Sequence[str]) -> str:
    """List the first eight of many names and count the rest.

    Example:
        >>> listed("abcdefghij")
        'a, b, c, d, e, f, g, h and 2 more'
    """
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
