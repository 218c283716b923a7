"""The errors that this package raises on purpose."""

__all__ = ("InputError",)


class InputError(ValueError):
    """Something that the user gave cannot be used; the message is one sentence that says what to do.

    The command line prints it without a traceback. Any other `ValueError` is a fault of the program, and shows where it
    comes from.
    """
