"""Waiting for what another thread or process does: as long as it takes, but not for ever."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 100) -> None:
    """Return once the condition holds; a machine that is busy only takes longer.

    Raises:
        AssertionError: If it does not hold within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"what was waited for did not happen in {seconds} seconds")
        time.sleep(0.002)
