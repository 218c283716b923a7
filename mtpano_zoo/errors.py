"""Errors that this package raises on purpose."""

__all__ = ("InputError",)


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence that says what to do.

    The command line prints it without a traceback. Any other `ValueError` is a bug and keeps its traceback.

    Example:
        >>> issubclass(InputError, ValueError)
        True
    """
