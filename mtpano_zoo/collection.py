"""Python's search for garbage, put off while there is none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("no_collection",)


@contextmanager
def no_collection() -> Iterator[None]:
    """Let no garbage be collected: imports and graphs make millions of objects, all in use, that it looks at each time.

    Example:
        >>> with no_collection():
        ...     gc.isenabled()
        False
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
