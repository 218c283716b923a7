"""A trained network where a configuration names a class."""

from collections.abc import Sequence
from typing import Any

from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.zoo.loading import load_model

__all__ = ("Pretrained",)


class Pretrained(PanoramaNetwork):
    """What `load_model` gives, for a YAML: `class_path: Pretrained`, `init_args: {source: NAME_OR_PATH}`.

    The object is the network itself, of its own class; this one only has the signature that a configuration needs.

    Args:
        source: see `load_model`.
        classes: names of the classes to train for; the classifiers start anew unless these are the network's own.
        palette: their colours (R, G, B) instead of the network's own.
        input_size: height and width that it will predict at, instead of its own: those that it is trained at.
        tasks: those of its tasks that are trained, all by default; the others are left out.

    Raises:
        OSError: if nothing is there, or it cannot be downloaded.
        ValueError: see `load_model`.
    """

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Load the network; since it is no `Pretrained`, Python does not go on to `__init__`."""
        return _load(*args, **options)

    def __init__(
        self,
        source: str,
        classes: Sequence[str] = (),
        palette: Sequence[Sequence[int]] | None = None,
        input_size: tuple[int, int] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        raise NotImplementedError  # only its signature is used


def _load(
    source: str,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] | None = None,
    input_size: tuple[int, int] | None = None,
    tasks: Sequence[str] | None = None,
) -> PanoramaNetwork:
    network = load_model(source, input_size=input_size, tasks=tasks)
    if "semseg" not in network.tasks:
        return network
    if classes and tuple(classes) != network.classes:
        network = load_model(source, classes=classes, input_size=input_size, tasks=tasks)
    if palette is not None:
        network.palette = palette
        network.config["palette"] = [[int(value) for value in colour] for colour in palette]
    return network
