import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

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
    return [text.get_text() for text in figure.axes[0].texts]


def titles(figure):
    names = ("image", "classes", "distance", "surface normals")
    return [text for text in texts(figure) if text.split(",")[0] in names]


def legend(figure):
    return [text for text in texts(figure) if text not in titles(figure)]


def colours(figure):
    """Colours that fill at least a hundred pixels."""
    packed = figure_to_array(figure).reshape(-1, 3).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    counts = np.bincount(packed, minlength=1 << 24)
    return {(c >> 16, c >> 8 & 255, c & 255) for c in np.flatnonzero(counts >= 100).tolist()}


@pytest.mark.parametrize("tasks", [(), ("semseg",), ("depth",), ("semseg", "normals"), ("semseg", "depth", "normals")])
@pytest.mark.parametrize("size", [(48, 96), (591, 1183)])
def test_prediction_panel_shows_what_is_there(tasks, size):
    shown = {task: values for task, values in maps(*size).items() if task in tasks}
    figure = prediction_panel(np.full((*size, 3), 90, np.uint8), shown, CLASSES, PALETTE)
    assert isinstance(figure, Figure)
    names = {"semseg": "classes", "depth": "distance", "normals": "surface normals"}
    assert titles(figure) == [f"image, {size[1]} x {size[0]}", *(names[task] for task in tasks)]
    filled = colours(figure)
    assert (90, 90, 90) in filled
    assert ("semseg" in tasks) == all(tuple(colour) in filled for colour in PALETTE.tolist())
    assert any("metres" in axes.get_xlabel() for axes in figure.axes) == ("depth" in tasks)
    assert ("forward (+z)" in texts(figure)) == ("normals" in tasks)


@pytest.mark.parametrize(("height", "dpi"), [(16, 100), (385, 100), (1024, 100), (385, 200)])
def test_pictures_stand_upright_in_their_place(height, dpi):
    image = np.full((height, 2 * height, 3), (10, 120, 250), np.uint8)
    image[: height // 4, : height // 2] = 255, 0, 0
    figure = prediction_panel(image, {"semseg": np.zeros(image.shape[:2], int)}, CLASSES, PALETTE)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    page = np.asarray(Image.open(file).convert("RGB"), int)
    for colour, box in (((10, 120, 250), (20, 40, 790, 425)), ((255, 0, 0), (20, 40, 212, 136))):
        rows, columns = np.nonzero(np.abs(page - colour).sum(-1) < 3)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(found - np.array(box) * dpi / 100).max() <= 2 * dpi / 100
    assert (page[int(45 * dpi / 100), int(30 * dpi / 100)] == (255, 0, 0)).all()


def test_legend_names_the_classes_that_occur_the_largest_first():
    image = np.zeros((20, 40, 3), np.uint8)
    semseg = np.zeros((20, 40), np.uint8)
    semseg[:15] = 2
    figure = prediction_panel(image, {"semseg": semseg}, CLASSES, PALETTE)
    assert legend(figure) == ["ceiling", "floor"]
    semseg[0, 0] = 255
    assert legend(prediction_panel(image, {"semseg": semseg}, CLASSES, PALETTE)) == ["ceiling", "floor", "no label"]


def test_names_of_classes_are_no_formulas():
    classes = ("a$b_{$c", "floor")
    figure = prediction_panel(
        np.zeros((20, 40, 3), np.uint8), {"semseg": np.zeros((20, 40), np.uint8)}, classes, PALETTE
    )
    assert legend(figure) == ["a$b_{$c"]
    figure_to_array(figure)


def test_a_large_map_is_thinned_but_its_legend_names_the_smallest_class():
    labels = np.zeros((1540, 3080), np.uint8)
    labels[1, 1], labels[3, 3] = 2, 255  # drawn are even rows and columns
    figure = prediction_panel(np.zeros((*labels.shape, 3), np.uint8), {"semseg": labels}, CLASSES, PALETTE)
    assert legend(figure) == ["floor", "ceiling", "no label"]
    assert figure.axes[0].images[1].get_array().shape == (770, 1540, 3)


def test_long_and_many_names_do_not_overlap():
    names = tuple(f"class number {i} with a name that does not end" for i in range(150))
    semseg = np.arange(150).repeat(12).reshape(30, 60)
    figure = prediction_panel(np.zeros((30, 60, 3), np.uint8), {"semseg": semseg}, names, np.zeros((150, 3)))
    shown = legend(figure)
    assert shown[-1] == f"and {150 - len(shown) + 1} more"
    figure_to_array(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
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
    pictures = {title: image.get_array() for title, image in zip(titles(figure), figure.axes[0].images, strict=True)}
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
