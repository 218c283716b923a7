from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mtpano_zoo import viz
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.viz import figure_to_array, prediction_panel, sample_panel

CLASSES = ("floor", "wall", "ceiling")
PALETTE = np.array([[200, 30, 40], [20, 180, 60], [50, 60, 220]], np.uint8)


def maps(height=48, width=96):
    rays = erp_rays(height, width).numpy()
    semseg = np.digitize(rays[..., 1], (-0.5, 0.5))
    return {"semseg": semseg, "depth": 2 + rays[..., 0], "normals": -rays}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def colours(figure):
    """Colours that fill at least a hundred pixels."""
    packed = figure_to_array(figure).reshape(-1, 3).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    counts = np.bincount(packed, minlength=1 << 24)
    return {(c >> 16, c >> 8 & 255, c & 255) for c in np.flatnonzero(counts >= 100).tolist()}


@pytest.mark.parametrize("tasks", [(), ("semseg",), ("depth",), ("semseg", "normals"), ("semseg", "depth", "normals")])
@pytest.mark.parametrize("size", [(48, 96), (591, 1183)])
def test_prediction_panel_shows_what_is_there(tasks, size):
    shown = {task: values if task in tasks else None for task, values in maps(*size).items()}
    figure = prediction_panel(np.full((*size, 3), 90, np.uint8), **shown, classes=CLASSES, palette=PALETTE)
    assert isinstance(figure, Figure)
    names = {"semseg": "classes", "depth": "distance", "normals": "surface normals"}
    assert titles(figure) == [f"image, {size[1]} x {size[0]}", *(names[task] for task in tasks)]
    filled = colours(figure)
    assert (90, 90, 90) in filled
    assert ("semseg" in tasks) == all(tuple(colour) in filled for colour in PALETTE.tolist())
    assert any("metres" in axes.get_xlabel() for axes in figure.axes) == ("depth" in tasks)
    assert ("forward (+z)" in texts(figure)) == ("normals" in tasks)


def test_legend_names_the_classes_that_occur_the_largest_first():
    image = np.zeros((20, 40, 3), np.uint8)
    semseg = np.zeros((20, 40), np.uint8)
    semseg[:15] = 2
    figure = prediction_panel(image, semseg, None, None, CLASSES, PALETTE)
    assert texts(figure) == ["ceiling", "floor"]
    semseg[0, 0] = 255
    assert texts(prediction_panel(image, semseg, None, None, CLASSES, PALETTE)) == ["ceiling", "floor", "no label"]


def test_long_and_many_names_do_not_overlap():
    names = tuple(f"class number {i} with a name that does not end" for i in range(150))
    semseg = np.arange(150).repeat(12).reshape(30, 60)
    figure = prediction_panel(np.zeros((30, 60, 3), np.uint8), semseg, None, None, names, np.zeros((150, 3)))
    legend = texts(figure)
    assert legend[-1] == f"and {150 - len(legend) + 1} more"
    figure_to_array(figure)
    axes = next(axes for axes in figure.axes if axes.texts)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def sample(**changes):
    tensors = {task: torch.from_numpy(values) for task, values in maps().items()}
    tensors |= {"image": torch.rand(3, 48, 96), "normals": tensors["normals"].permute(2, 0, 1)}
    return {key: value for key, value in (tensors | changes).items() if value is not None}


def test_sample_and_prediction_stand_one_below_the_other():
    truth = sample()
    logits = torch.nn.functional.one_hot(truth["semseg"], 3).permute(2, 0, 1).float().requires_grad_()
    output = {
        "semseg": logits,
        "depth": truth["depth"][None] * 2,
        "normals": truth["normals"] * 5,
        "aux": {},
        "ext": {},
    }
    figure = sample_panel(truth, output, CLASSES, PALETTE)
    kinds = ("classes", "distance", "surface normals")
    expected = [f"{kind}, {origin}" for kind in kinds for origin in ("ground truth", "prediction")]
    assert titles(figure) == ["image", *expected]
    pictures = {axes.get_title(loc="left"): axes.images[0].get_array() for axes in figure.axes if axes.images}
    for kind in ("classes", "surface normals"):  # the same map as logits, or at another length, has the same colours
        assert np.array_equal(pictures[f"{kind}, ground truth"], pictures[f"{kind}, prediction"])
    # The range is that of the ground truth: twice the depth is the colour of the far end nearly everywhere.
    assert (pictures["distance, prediction"] == pictures["distance, prediction"][0, 0]).mean() > 0.4
    pixels = figure_to_array(figure)
    assert pixels.shape[1:] == (1600, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize("missing", ["semseg", "depth", "normals"])
def test_partial_labels_and_no_prediction(missing):
    figure = sample_panel(sample(**{missing: None}), None, CLASSES)
    assert len(titles(figure)) == 3 and all(title == "image" or "ground truth" in title for title in titles(figure))
    output = {"semseg": torch.randn(3, 48, 96), "depth": torch.rand(1, 48, 96)}
    assert len(titles(sample_panel(sample(**{missing: None}), output, CLASSES))) == 5
    assert titles(sample_panel({"image": torch.rand(3, 16, 32)}, None, ())) == ["image"]


def test_pixels_without_labels_are_drawn():
    empty = sample(depth=torch.zeros(48, 96), semseg=torch.full((48, 96), 255), normals=torch.zeros(3, 48, 96))
    figure = sample_panel(empty, {"depth": torch.full((1, 48, 96), torch.nan)}, CLASSES)
    assert {(0, 0, 0), (128, 128, 128)} <= colours(figure)


def test_no_pyplot_state():
    for file in Path(viz.__file__).parent.glob("*.py"):
        assert "pyplot" not in file.read_text().split('"""', 2)[2]
