"""Suspend Python's garbage collector while there is no garbage to find."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("no_collection",)


@contextmanager
def no_collection() -> Iterator[None]:
    """Suspend garbage collection: imports and graphs create millions of live objects that every pass would scan.

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
