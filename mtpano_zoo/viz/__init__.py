"""Colours and figures. Figures are matplotlib objects without pyplot: no display, no global state."""

from mtpano_zoo.viz.colours import (
    colour_depth,
    colour_normals,
    colour_semseg,
    default_palette,
    depth_range,
)
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
