"""Load a trained network where a configuration names a class."""

from collections.abc import Sequence

from jsonargparse.typing import class_from_function
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.zoo.building import assemble, transferred_card
from mtpano_zoo.zoo.loading import load_model

__all__ = ("Pretrained", "PretrainedInMetres", "load_in_metres", "load_pretrained")


def load_pretrained(
    source: str,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] | None = None,
    input_size: tuple[int, int] | None = None,
    tasks: Sequence[str] | None = None,
) -> PanoramaNetwork:
    """Load a network to train it further, as `class_path: Pretrained` in a configuration does.

    Its weights become float32, whatever they were saved in. Its card names the source as upstream, and no scores. What
    fits only the encoder as it was is left out: the check of familiarity here, an `up_head` by `PanoramaModule`. To
    predict with the unchanged network, use `mtpano run` or `load_model`.

    Args:
        source: see `load_model`.
        classes: names of the classes to train for; the classifiers are re-initialised unless these are the network's
            own.
        palette: colours (R, G, B) of the classes, instead of the network's own.
        input_size: height and width to train and predict at, instead of its own.
        tasks: tasks of the network to train; the others are left out. If omitted, all are trained.

    Raises:
        OSError: If nothing is there, or it cannot be downloaded.
        InputError: If the source cannot be loaded in this way, see `load_model`.
    """
    trained = load_model(source, tasks=tasks)
    if "semseg" not in trained.tasks:
        classes, palette = (), None
    description = trained.describe() | {"card": trained.card}
    weights = _in_float32(trained)
    network = assemble(description, weights, source, classes=classes or None, palette=palette, input_size=input_size)
    if network.classes == trained.classes:
        network.card = transferred_card(trained.card, source, f"for {', '.join(network.tasks)}")
    return network


Pretrained = class_from_function(load_pretrained, PanoramaNetwork, "Pretrained")


def load_in_metres(source: str, input_size: tuple[int, int] | None = None) -> PanoramaNetwork:
    """Load a network that predicts inverse distances, to train it further for distances in metres.

    Args:
        source: a network with the task `disparity` only, see `load_model`.
        input_size: height and width to train and predict at, instead of its own.

    Raises:
        OSError: If nothing is there, or it cannot be downloaded.
        InputError: If the network has other tasks, or its weights do not fit the same network for `depth`.
    """
    trained = load_model(source, input_size=input_size)
    if trained.tasks != ("disparity",):
        raise InputError(f"{source} has the tasks {', '.join(trained.tasks)}, not disparity alone: use Pretrained")
    description = {
        "class_path": type(trained).__name__,
        "init_args": {**trained.config, "tasks": ["depth"]},
        "card": transferred_card(trained.card, source, "for distances in metres"),
    }
    return assemble(description, _in_float32(trained), source)


PretrainedInMetres = class_from_function(load_in_metres, PanoramaNetwork, "PretrainedInMetres")


def _in_float32(network: PanoramaNetwork) -> dict[str, Tensor]:
    return {key: x.float() if x.is_floating_point() else x for key, x in network.state_dict().items()}
