"""Check that a network can run on a device."""

import torch

from mtpano_zoo.errors import InputError

__all__ = ("check_device",)


def check_device(device: str | torch.device) -> None:
    """Refuse an unavailable device before gigabytes are loaded.

    Raises:
        InputError: If it is not a device, or cannot be used here.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        if isinstance(error, NotImplementedError | ImportError):  # their text is a page about operators
            reason = "this PyTorch was built without it"
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        usable = "cpu" if found is None else f"cpu or {found.type}"
        raise InputError(f"The device {str(device)!r} cannot be used here: {reason}; choose {usable}.") from error
