"""Types of numbers: integers are promoted, angles are computed in double precision, and coordinates never in half."""

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError

__all__ = ("at_least_float32", "check_floating", "floating", "widest")


def floating(values: Tensor) -> Tensor:
    """Convert integers to float32, because values combined with them would be truncated; leave other types alone.

    Example:
        >>> floating(torch.tensor([1, 2])).dtype, floating(torch.tensor([1.0], dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return values if values.is_floating_point() else values.to(torch.float32)


def check_floating(dtype: torch.dtype) -> None:
    """Refuse a type that would truncate directions to integers.

    Raises:
        InputError: If ``dtype`` is not a floating-point type.

    Example:
        >>> check_floating(torch.int64)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if not dtype.is_floating_point:
        raise InputError(f"directions and angles need a floating-point type, not {dtype}: leave dtype out or change it")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for integers and half precision, which would round pixel coordinates; else the type itself.

    Example:
        >>> at_least_float32(torch.bfloat16), at_least_float32(torch.int64), at_least_float32(torch.float64)
        (torch.float32, torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def widest(device: torch.device | str | None) -> torch.dtype:
    """Return the type to compute angles in on the device, which a copy from the host would stall; MPS lacks float64.

    Example:
        >>> widest("cpu")
        torch.float64
    """
    return torch.float32 if device is not None and torch.device(device).type == "mps" else torch.float64
