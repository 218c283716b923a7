"""Proxies that the client of the Hugging Face Hub cannot use, in one sentence."""

import os
from collections.abc import Sequence

from huggingface_hub import errors

__all__ = ("explain_proxy", "set_variables")

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def explain_proxy(error: ImportError | ValueError) -> str | None:
    """Say what to do about a proxy that the client of the Hub cannot use; None if that is not what happened."""
    proxies = set_variables(PROXIES)
    if not proxies or isinstance(error, errors.HFValidationError):
        return None
    if isinstance(error, ImportError):
        return f"{proxies} names a SOCKS proxy: `pip install socksio`, which such a proxy needs, or unset it"
    return f"{proxies} is not the address of an HTTP or SOCKS5 proxy: correct or unset it"


def set_variables(names: Sequence[str]) -> str:
    """Name those environment variables that are set; their values may hold passwords."""
    return " or ".join(name for upper in names for name in (upper, upper.lower()) if os.environ.get(name))
