"""Files that stand at the top of the repository and inside the wheel: `checkpoints.yaml` and `configs/`."""

from pathlib import Path

__all__ = ("shipped",)

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Return the path of a shipped file, in an installed package or in a checkout.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    for root in (PACKAGE, PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} is not among the files that mtpano_zoo ships; install the package again.")
