"""Load a network with its weights by a name in `checkpoints.yaml`, a repository or a path."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtpano_zoo.errors import InputError
from mtpano_zoo.zoo.places import locate

if TYPE_CHECKING:
    import torch

    from mtpano_zoo.models import PanoramaNetwork

__all__ = ("load_model",)


def load_model(
    source: str | Path,
    device: "str | torch.device" = "cpu",
    *,
    tasks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    input_size: tuple[int, int] | None = None,
    **others: Any,
) -> "PanoramaNetwork":
    """Load a network with its weights, ready to predict.

    Loading is strict: mismatches are listed key by key. Files are read as tensors and plain data only: nothing in them
    is executed. Weights are mapped from their file, so they take memory only when they are used; do not write into that
    file while the network is in use (replacing it is fine).

    Args:
        source: what to load:
            a name of `list_models()`: in the package, or downloaded to the cache of the Hugging Face Hub and converted
            on first use;
            `hf-hub:user/name` or `hf-hub:user/name@revision`, a repository that `push_to_hub` wrote;
            `local-dir:path`, a folder that `save_pretrained` wrote;
            the path of such a folder, of the `.safetensors` in it, of a checkpoint that training wrote (`.ckpt`), or of
            a published one (`.pth`, `.pth.tar`), recognised by its keys and converted in memory each time.
        device: device to put the network on.
        tasks: tasks of the network to keep for training, such as `["depth"]`; parts that only the others use are left
            out. The predictions of the kept tasks change, since they no longer see the features of the others; the card
            loses its scores.
        classes: names of semantic classes to train it for instead of its own; their classifiers are re-initialised.
        palette: colours (R, G, B) of the classes. If omitted, its own, or the default ones for other classes.
        input_size: height and width that `predict` resizes to, instead of its own.
        **others: refused, because nothing else of a trained network can be changed.

    Raises:
        OSError: If nothing is there, or it cannot be downloaded; the message says what to do.
        InputError: If there is no such name, an argument cannot be changed, or a file does not hold what it should.
    """
    if others:
        raise InputError(
            f"{', '.join(others)} cannot be changed in a network with weights; load_model takes tasks, "
            "classes, palette and input_size."
        )
    names = classes if isinstance(classes, Sequence) and not isinstance(classes, str) else [None]
    if classes is not None and not all(isinstance(name, str) for name in names):
        raise InputError(f"classes are names in a list, such as ['floor', 'wall'], not {classes!r}.")
    place = locate(source)
    # PyTorch and timm take seconds to import: mistakes are reported before that.
    from mtpano_zoo.machine.device import check_device
    from mtpano_zoo.zoo.building import assemble
    from mtpano_zoo.zoo.reading import read

    check_device(device)
    description, weights = read(place)
    network = assemble(
        description, weights, source, tasks=tasks, classes=classes, palette=palette, input_size=input_size
    )
    return network.to(device)
