"""Errors that this package raises on purpose."""

__all__ = ("InputError", "Terminated")


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence that says what to do.

    The command line prints it without a traceback. Any other `ValueError` is a bug and keeps its traceback.

    Example:
        >>> issubclass(InputError, ValueError)
        True
    """


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; the command line stops as after Ctrl-C, with another exit status."""
