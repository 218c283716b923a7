"""The device that a network runs on."""

import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.machine.claims import LOCAL_RANKS, process_number

__all__ = ("check_device", "default_device")


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


def default_device() -> str:
    """Return a GPU if there is one, or else the CPU. Processes of torchrun or SLURM on a machine get different GPUs."""
    count = torch.cuda.device_count()
    return f"cuda:{process_number(LOCAL_RANKS) % count}" if count else "cpu"
