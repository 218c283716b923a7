"""Colours and figures. Figures are matplotlib objects without pyplot: no display, no global state."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mtpano_zoo.viz.palette import default_palette

if TYPE_CHECKING:
    from mtpano_zoo.viz.colours import colour_depth, colour_normals, colour_semseg, depth_range
    from mtpano_zoo.viz.panels import figure_to_array, prediction_panel, sample_panel

__all__ = (
    "colour_depth",
    "colour_normals",
    "colour_semseg",
    "default_palette",
    "depth_range",
    "figure_to_array",
    "prediction_panel",
    "sample_panel",
)

_HOMES = {
    "colour_depth": "mtpano_zoo.viz.colours",
    "colour_normals": "mtpano_zoo.viz.colours",
    "colour_semseg": "mtpano_zoo.viz.colours",
    "depth_range": "mtpano_zoo.viz.colours",
    "figure_to_array": "mtpano_zoo.viz.panels",
    "prediction_panel": "mtpano_zoo.viz.panels",
    "sample_panel": "mtpano_zoo.viz.panels",
}


def __getattr__(name: str) -> Any:
    """Import drawing functions on first use, so that a prediction without a picture does not wait for matplotlib."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
