"""What a task and a sample are: facts about the maps that a network predicts and a data set holds.

A new task is a line in `MAIN_TASKS`, its labels are lines in `SAMPLE_MAPS`; its loss, metric, colours and card text are
lines in the literal dictionaries of their modules.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mtpano_zoo.errors import InputError

__all__ = (
    "AUXILIARY_TASKS",
    "CONFIDENCES",
    "MAIN_TASKS",
    "NO_LABEL",
    "SAMPLE_MAPS",
    "TASKS",
    "Kind",
    "SampleMap",
    "Stored",
    "Stream",
    "Task",
    "auxiliary_tasks_of",
    "check_tasks",
)

NO_LABEL = 255

Stream = Literal["invariant", "variant"]
Kind = Literal["classes", "positive", "direction", "binary", "real"]
Codec = Literal["palette", "millimetres", "float32", "unit_vectors"]


@dataclass(frozen=True)
class Stored:
    """One file that `Prediction.save` writes for a task.

    Attributes:
        name: what the file holds, the key under which `save` returns its path.
        suffix: end of the file's name, after the stem and an underscore.
        codec: how the values are encoded, one of `mtpano_zoo.prediction.maps.WRITERS`.

    Example:
        >>> [file.suffix for file in MAIN_TASKS["depth"].stored]
        ['depth.png', 'depth.npy']
    """

    name: str
    suffix: str
    codec: Codec


@dataclass(frozen=True)
class Task:
    """One thing that is predicted for every pixel.

    Attributes:
        channels: output channels; 0 stands for the number of classes, or of ranges.
        stream: `invariant` if a value stays as it is when the camera turns, `variant` if it is a vector in the camera's
            frame.
        kind: how an output is read. `classes`: logits, the largest is the class. `positive`: a number above zero,
            0 = no value. `direction`: a vector of any length, zero = no value. `binary`: a logit, above zero = yes.
            `real`: any number.
        minimum: smallest value of a `positive` output; a regression may dip below zero.
        labels: keys of a sample that its label is made of; a batch that lacks one of them does not train it.
        stored: files of a saved prediction.

    Example:
        >>> MAIN_TASKS["depth"].kind, MAIN_TASKS["normals"].channels
        ('positive', 3)
    """

    channels: int
    stream: Stream
    kind: Kind
    minimum: float = 0.0
    labels: tuple[str, ...] = ()
    stored: tuple[Stored, ...] = ()


MAIN_TASKS: dict[str, Task] = {
    "semseg": Task(0, "invariant", "classes", labels=("semseg",), stored=(Stored("semseg", "semseg.png", "palette"),)),
    "depth": Task(
        1,
        "invariant",
        "positive",
        minimum=0.001,  # metres
        labels=("depth",),
        stored=(Stored("depth", "depth.png", "millimetres"), Stored("depth_metres", "depth.npy", "float32")),
    ),
    "normals": Task(
        3, "variant", "direction", labels=("normals",), stored=(Stored("normals", "normals.png", "unit_vectors"),)
    ),
    # Whether the distance is defined and within the range of the network; elsewhere a prediction has no distance.
    "valid": Task(1, "invariant", "binary", labels=("depth", "far")),
    # Inverse distance up to an unknown scale and shift: never written as metres.
    "disparity": Task(
        1,
        "invariant",
        "positive",
        minimum=1e-6,
        labels=("disparity", "disparity_valid"),
        stored=(Stored("disparity", "relative_disparity.npy", "float32"),),
    ),
}
# Their labels are derived from the image and the depth, and need no annotation.
AUXILIARY_TASKS: dict[str, Task] = {
    "gradient": Task(2, "invariant", "real"),
    "edge_distance": Task(1, "invariant", "real"),
    "point_map": Task(3, "variant", "real"),
    # One channel for every range of the network: `valid` for each of them.
    "range_masks": Task(0, "invariant", "binary"),
}
TASKS = MAIN_TASKS | AUXILIARY_TASKS


@dataclass(frozen=True)
class SampleMap:
    """A map (H, W) or (C, H, W) of a sample.

    Attributes:
        channels: C; 0 for a map (H, W).
        dtype: name of its torch type.
        sampling: what resizing and rotating may mix, one of `mtpano_zoo.sphere.Mode`.
        empty: what a pixel without a value holds.

    Example:
        >>> SAMPLE_MAPS["semseg"].empty, SAMPLE_MAPS["depth"].sampling
        (255, 'depth')
    """

    channels: int
    dtype: Literal["float32", "int64", "bool"]
    sampling: Literal["image", "label", "depth", "vectors"]
    empty: float


# Keys under which a sample holds the confidence in its labels of a task; labels without one are trusted fully.
CONFIDENCES = {"semseg": "confidence", "depth": "depth_confidence", "normals": "normals_confidence"}

SAMPLE_MAPS: dict[str, SampleMap] = {
    "image": SampleMap(3, "float32", "image", 0.0),
    "semseg": SampleMap(0, "int64", "label", NO_LABEL),
    "depth": SampleMap(0, "float32", "depth", 0.0),
    "far": SampleMap(0, "bool", "label", False),
    "normals": SampleMap(3, "float32", "vectors", 0.0),
    "disparity": SampleMap(0, "float32", "depth", 0.0),
    "disparity_valid": SampleMap(0, "bool", "label", False),
    # For an unlabelled panorama: what a teacher sees while `image` has its colours changed, and where no label counts.
    "clean": SampleMap(3, "float32", "image", 0.0),
    "ignored": SampleMap(0, "bool", "label", False),
    # From the nearest pixel: a confidence belongs to the class of that pixel.
    **dict.fromkeys(CONFIDENCES.values(), SampleMap(0, "float32", "depth", 1.0)),
}


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the main tasks in their standard order.

    Raises:
        InputError: If there are none, or one is unknown or named twice.

    Example:
        >>> check_tasks(("normals", "semseg"))
        ('semseg', 'normals')
    """
    named = list(tasks) if isinstance(tasks, Iterable) and not isinstance(tasks, str) else []
    if not named or any(task not in tuple(MAIN_TASKS) or named.count(task) > 1 for task in named):
        shown = ", ".join(map(str, named)) or (repr(tasks) if tasks else "none")
        raise InputError(f"tasks must be a list of one or more of {', '.join(MAIN_TASKS)}, each once; got {shown}.")
    return tuple(task for task in MAIN_TASKS if task in named)


def auxiliary_tasks_of(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the auxiliary tasks that PD-BridgeNet trains beside the main ones; a point map needs labels of depth.

    Example:
        >>> auxiliary_tasks_of(("semseg",))
        ('gradient', 'edge_distance')
    """
    return ("gradient", "edge_distance", *(("point_map",) if "depth" in tasks else ()))
