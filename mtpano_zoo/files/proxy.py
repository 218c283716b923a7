"""Explain proxies that the Hugging Face Hub client cannot use."""

import os
from collections.abc import Sequence

from huggingface_hub import errors

__all__ = ("PROXIES", "explain_proxy", "set_variables")

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def explain_proxy(error: ImportError | ValueError) -> str | None:
    """Return what to do about a proxy that the Hub client cannot use; None if the error has another cause."""
    proxies = set_variables(PROXIES)
    if not proxies or isinstance(error, errors.HFValidationError):
        return None
    if isinstance(error, ImportError):
        return f"{proxies} names a SOCKS proxy: run `pip install socksio`, or unset it"
    return f"{proxies} is not the address of an HTTP or SOCKS5 proxy: correct it or unset it"


def set_variables(names: Sequence[str]) -> str:
    """Return the names of those variables that are set, without their values, which may hold passwords."""
    return " or ".join(name for upper in names for name in (upper, upper.lower()) if os.environ.get(name))
