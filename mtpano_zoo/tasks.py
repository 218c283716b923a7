"""What a task is: what a network predicts for it, and to which stream it belongs."""

from dataclasses import dataclass
from typing import Literal

__all__ = ("AUXILIARY_TASKS", "MAIN_TASKS", "TASKS", "Stream", "Task", "auxiliary_tasks_of", "check_tasks")

Stream = Literal["invariant", "variant"]


@dataclass(frozen=True)
class Task:
    """One thing that is predicted for every pixel.

    Args:
        channels: output channels; 0 stands for the number of classes.
        stream: `invariant` if a value keeps when the camera turns, `variant` if it is a vector in the camera's frame.
    """

    channels: int
    stream: Stream


MAIN_TASKS: dict[str, Task] = {
    "semseg": Task(0, "invariant"),
    "depth": Task(1, "invariant"),
    "normals": Task(3, "variant"),
}
# Their labels are derived from the image and the depth: nobody annotates them.
AUXILIARY_TASKS: dict[str, Task] = {
    "gradient": Task(2, "invariant"),
    "edge_distance": Task(1, "invariant"),
    "point_map": Task(3, "variant"),
}
TASKS = MAIN_TASKS | AUXILIARY_TASKS


def check_tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the main tasks in their standard order.

    Raises:
        ValueError: if there is none, one is unknown or one is named twice.
    """
    unknown = [task for task in tasks if task not in MAIN_TASKS]
    if unknown or not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks must be different ones of {', '.join(MAIN_TASKS)}; got {', '.join(tasks) or 'none'}.")
    return tuple(task for task in MAIN_TASKS if task in tasks)


def auxiliary_tasks_of(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the auxiliary tasks that are trained beside the main ones; a point map needs labels of depth."""
    return tuple(task for task in AUXILIARY_TASKS if task != "point_map" or "depth" in tasks)
