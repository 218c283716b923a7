"""Build a network from a description and weights, with fewer tasks or other classes if asked for."""

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import check_not_nan, check_weights
from mtpano_zoo.image_io import check_panorama_size
from mtpano_zoo.layers import ENCODERS
from mtpano_zoo.models import NETWORKS, PanoramaNetwork
from mtpano_zoo.models.base import plain_palette
from mtpano_zoo.outputs import weight_type
from mtpano_zoo.prediction.familiarity import check_familiarity
from mtpano_zoo.tasks import check_tasks

__all__ = ("assemble", "build_network", "transfer", "transferred_card")

INITIALISERS = frozenset(("normal_", "uniform_", "fill_", "zero_", "mul_", "add_", "clamp_", "erfinv_"))


def assemble(
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    input_size: tuple[int, int] | None = None,
) -> PanoramaNetwork:
    """Assemble a network from its description and its weights, which it uses without copying them.

    Args:
        description: `class_path`, `init_args` and optionally `card`.
        weights: the whole state dict.
        source: where they come from, for messages.
        tasks: tasks of the network to keep; parts that only the others use are left out.
        classes: class names to use instead of its own; their classifiers are re-initialised.
        palette: colours of the classes. If omitted, its own, or the default ones for other classes.
        input_size: height and width to use instead of its own.

    Returns:
        The network in evaluation mode.

    Raises:
        InputError: If the description is not that of a known network, or the weights do not fit it or are NaN.
    """
    if not {"class_path", "init_args"} <= description.keys():
        raise InputError(
            f"{source} does not describe a network of this package: it needs the keys class_path and init_args."
        )
    if not isinstance(description["init_args"], Mapping) or not isinstance(description.get("card") or {}, Mapping):
        raise InputError(f"{source} does not describe a network: its init_args and its card must be dictionaries.")
    check_not_nan(weights, source)
    arguments = dict(description["init_args"])
    card = dict(description.get("card") or {})
    if input_size is not None:
        sides = tuple(input_size) if isinstance(input_size, Iterable) else ()
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise InputError(f"input_size is height and width in pixels, such as (512, 1024), not {input_size!r}.")
        check_panorama_size(*input_size, "input_size")
        arguments["input_size"] = list(input_size)
    if tasks is not None:
        whole = weights.keys()
        arguments, weights = _of_tasks(description["class_path"], arguments, weights, source, check_tasks(tasks))
        if weights.keys() != whole:  # the network with all its tasks was scored, and predicts otherwise
            card = {key: value for key, value in card.items() if key not in ("results", "limitations")}
    renewed = classes is not None and list(classes) != arguments.get("classes")
    if renewed:
        if "classes" not in arguments:  # then its constructor may refuse them
            described = {"class_path": description["class_path"], "init_args": arguments}
            _check_classified(build_network(described, source), source)
        arguments |= {"classes": list(classes or ()), "palette": None}
    if palette is not None:
        arguments["palette"] = plain_palette(palette)
    network = build_network({"class_path": description["class_path"], "init_args": arguments}, source)
    if card.get("familiarity"):
        check_familiarity(card["familiarity"], network, source)
    if renewed:
        weights, new = transfer(weights, network, source)
        warnings.warn(
            f"{source} for your {len(network.classes)} classes: all is kept except {', '.join(new)}, now untrained.",
            stacklevel=3,
        )
        card = transferred_card(card, source, f"with untrained classifiers for {len(network.classes)} other classes")
    check_weights(network, weights, source)
    network.load_state_dict(dict(weights), assign=True)
    if len({parameter.dtype for parameter in network.parameters()}) == 1:
        network.to(weight_type(network))  # buffers that no file holds are float32 until then
    network.card = card
    return network.eval()


def _of_tasks(
    name: str, arguments: Mapping[str, Any], weights: Mapping[str, Tensor], source: str | Path, tasks: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and weights of the same network with only some of its tasks."""
    network = build_network({"class_path": name, "init_args": arguments}, source)
    if absent := [task for task in tasks if task not in network.tasks]:
        raise InputError(f"{source} has no {' and no '.join(absent)}: its tasks are {', '.join(network.tasks)}.")
    if tasks == network.tasks:
        return dict(arguments), dict(weights)
    check_weights(network, weights, source)
    without_classes: dict[str, Any] = {}
    if "semseg" in network.tasks and "semseg" not in tasks:
        without_classes = {"classes": [], "palette": None}
    fewer = dict(arguments) | {"tasks": list(tasks)} | without_classes
    kept = build_network({"class_path": name, "init_args": fewer}, source).state_dict().keys()
    return fewer, {key: tensor for key, tensor in weights.items() if key in kept}


def transfer(
    weights: Mapping[str, Tensor], network: PanoramaNetwork, source: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Fit the weights of a network to one with other classes.

    Everything is kept except the classifiers of the semantic classes, in the main and the auxiliary head. All their
    rows keep the initial values of the new network. A class that both sets call `wall` starts afresh like any other,
    since data sets define classes of the same name differently, and a softmax score means something only next to the
    scores of the classes that it was trained with.

    Args:
        weights: state dict of the trained network.
        network: a network built with the new classes and everything else unchanged; classifiers on the meta device are
            given memory and initialised.
        source: where the weights come from, for the message.

    Returns:
        The whole state dict of the new network, and the names in it that are new.

    Raises:
        InputError: If the network has no semantic classes, or anything but the classifiers does not fit; the message
            lists what.
    """
    _check_classified(network, source)
    fitted, new = dict(weights), []
    for name in network.classifier_parts:
        classifier = cast("nn.Conv2d", network.get_submodule(name))
        if classifier.weight.is_meta:
            classifier.to_empty(device="cpu")
            classifier.reset_parameters()
        for part, start in classifier.state_dict().items():
            key = f"{name}.{part}"
            if key in weights:  # else it is listed as missing
                fitted[key] = start.to(weights[key].dtype)
                new.append(key)
    check_weights(network, fitted, source)
    return fitted, new


def _check_classified(network: PanoramaNetwork, source: str | Path) -> None:
    if "semseg" not in network.tasks:
        raise InputError(f"{source} predicts {', '.join(network.tasks)} and no classes: leave `classes` out.")


def transferred_card(card: Mapping[str, Any], source: str | Path, change: str) -> dict[str, Any]:
    """Return the card of a network that was changed to be trained: what is still true, which the scores are not."""
    path = Path(str(source).removeprefix("local-dir:"))
    name = path.name if path.exists() else str(source)  # the folder it was in is private
    upstream = {"name": name, "license": (card.get("license") or {}).get("weights") or "unknown"}
    return {
        **{key: card[key] for key in ("paper", "depth_unit", "license", "training_data") if key in card},
        "description": f"Weights of {name} {change}: to be trained.",
        "upstream": [*(card.get("upstream") or ()), upstream],
    }


def build_network(description: Mapping[str, Any], source: str | Path) -> PanoramaNetwork:
    """Build a network whose parameters have no memory yet.

    Args:
        description: `class_path`, one of `NETWORKS`, and `init_args`. An encoder among these is described in the same
            way, by one of `ENCODERS`. Nothing else that a file names is ever imported or read.
        source: where it comes from, for the message.

    Raises:
        InputError: If the class is not one of ours, or does not take the arguments.
    """
    name = description.get("class_path")
    if not isinstance(name, str) or name not in NETWORKS:
        raise InputError(
            f"{source} describes a network of the class {name!r}, which is not one of {', '.join(NETWORKS)}."
        )
    with _parameters_on_meta():
        network: PanoramaNetwork = _build(NETWORKS[name], description.get("init_args"), source)
    return network


def _build(part: type[Any], arguments: Any, source: str | Path) -> Any:
    """Build a part of a network from the arguments in a file; parts among these are built first."""
    if not isinstance(arguments, Mapping):
        raise InputError(f"{source} describes {part.__name__} without its arguments: init_args must be a dictionary.")
    if foreign := sorted(part.start_arguments & arguments.keys()):
        raise InputError(
            f"{source} has weights, so its {part.__name__} cannot start from others: remove {foreign[0]} from its "
            "init_args."
        )
    built = {}
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "class_path" in value:
            name = value["class_path"]
            if not isinstance(name, str) or name not in ENCODERS:
                raise InputError(f"{source} describes a part {name!r}, which is not one of {', '.join(ENCODERS)}.")
            value = _build(ENCODERS[name], value.get("init_args"), source)
        built[key] = value
    try:
        return part(**built)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{source} has arguments that {part.__name__} does not take: {reason}.") from error


class _Building(threading.local):
    on_meta = False


_building = _Building()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move parameters to the meta device as modules register them; buffers are computed, since no file holds them all.

    `torch.device("meta")` would leave those buffers without values that the state dict does not contain.
    """
    _building.on_meta = True
    try:
        with _SkipInitialisation():
            yield
    finally:
        _building.on_meta = False


def _to_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
    if not _building.on_meta or parameter is None:
        return None
    return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)


# Never removed: another thread that registers a parameter at that moment would fail.
register_module_parameter_registration_hook(_to_meta)


class _SkipInitialisation(TorchFunctionMode):
    """Leave meta parameters as they are: initialising them takes long and changes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        name, module = getattr(func, "__name__", ""), getattr(func, "__module__", "")
        initialises = name in INITIALISERS or (module == "torch.nn.init" and name.endswith("_"))
        if initialises and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)
