"""Plots of reports."""

import io

import pytest
from PIL import Image

from mtpano_zoo.evaluation.plots import bands_plot, measures_plot, tilt_plot
from mtpano_zoo.evaluation.regions import BANDS

POINT = {"value": 1.0, "low": 0.5, "high": 2.0}


@pytest.mark.parametrize("plot", [bands_plot, tilt_plot, measures_plot])
def test_names_of_models_are_no_formulas(plot):
    """A name is that of a file, which may hold dollar signs."""
    curves = {
        "bands/depth": {str(band): POINT for band in range(len(BANDS) - 1)},
        "turned/depth": {"upright": POINT, "pitch 10": POINT, "roll 10": POINT},
    }
    report = {"models": {"a$b_{$c": {"curves": curves, "measures": {"scale/depth": POINT}}}}
    assert Image.open(io.BytesIO(plot(report))).format == "PNG"


@pytest.mark.parametrize(("plot", "kind"), [(bands_plot, "bands"), (tilt_plot, "turned")])
def test_every_model_is_in_the_legend(plot, kind, monkeypatch):
    """Also without the task of the first plot, and with a name that Matplotlib would leave out."""
    keys = range(len(BANDS) - 1) if kind == "bands" else ("upright", "pitch 10", "roll 10")
    points = {str(key): POINT for key in keys}
    models = {"_first": {"curves": {f"{kind}/depth": points}}, "second": {"curves": {f"{kind}/normals": points}}}
    shown = []
    monkeypatch.setattr(
        "mtpano_zoo.evaluation.plots._png", lambda figure: shown.extend(figure.axes[0].get_legend().get_texts())
    )
    plot({"models": models})
    assert {text.get_text().split(",")[0] for text in shown} == set(models)
