"""The files of a panorama, read back by what trains on them."""

import json

import cv2
import numpy as np
import pytest
import torch

from mtpano_zoo.data import ADE20K_CLASSES, PseudoLabelDataModule
from mtpano_zoo.labeling.back_projection import SparseLabels
from mtpano_zoo.labeling.encoding import encode_image, encode_labels
from mtpano_zoo.labeling.fusion import PanoramaLabels

HEIGHT, WIDTH = 32, 64


def unit(*shape):
    vectors = torch.randn(*shape, 3)
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.fixture
def labels():
    """Random maps with holes, and two views of a part of the pixels; the second knows no depth."""
    torch.manual_seed(1)
    semseg = torch.randint(0, len(ADE20K_CLASSES), (HEIGHT, WIDTH), dtype=torch.uint8)
    semseg[:4] = 255
    depth = torch.rand(HEIGHT, WIDTH) * 65.4 + 0.01
    depth[:, :4] = 0
    normals = unit(HEIGHT, WIDTH).permute(2, 0, 1).contiguous()
    normals[:, :, -3:] = 0
    pixels = torch.randperm(HEIGHT * WIDTH)[:300].sort().values
    views = (
        SparseLabels(pixels, torch.randint(0, 150, (300,), dtype=torch.uint8), torch.rand(300) * 9, unit(300)),
        SparseLabels(pixels[:50], None, torch.zeros(50), unit(50)),
    )
    confidence = {task: torch.rand(HEIGHT, WIDTH) for task in ("semseg", "depth", "normals")}
    return PanoramaLabels(semseg, depth, normals, confidence, views=views)


def store(root, files):
    for path, data in files.items():
        task, name = path.split("/")
        (root / task / "room").mkdir(parents=True, exist_ok=True)
        (root / task / "room" / name).write_bytes(data)
    (root / "img").mkdir()
    (root / "db_info").mkdir()
    (root / "db_info" / "panomtdu_train.json").write_text(json.dumps(["room"]))


def angle(a, b):
    return torch.rad2deg(2 * torch.asin(((a - b).norm(dim=0) / 2).clamp(max=1)))


def test_merged_maps_are_read_back(labels, tmp_path):
    store(tmp_path, encode_labels(labels).files)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    (tmp_path / "img" / "room.jpg").write_bytes(encode_image(cv2.blur(image, (9, 9)), HEIGHT, WIDTH))
    sample = PseudoLabelDataModule(tmp_path, height=HEIGHT, width=WIDTH).dataset("train")[0]
    assert (sample["semseg"] == labels.semseg).all()
    assert ((sample["depth"] == 0) == (labels.depth == 0)).all()
    assert (sample["depth"] - labels.depth).abs().max() <= 0.00051  # half a millimetre, in float32
    hole = (labels.normals == 0).all(0)
    assert ((sample["normals"] == 0).all(0) == hole).all()
    assert angle(sample["normals"], labels.normals)[~hole].max() < 0.5  # degrees; a step of 8 bits is 0.45
    stored = (sample["image"].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(stored - cv2.blur(image, (9, 9))).mean() < 4


@pytest.mark.parametrize("task", ["semseg", "depth", "normals"])
def test_a_view_is_the_merged_map_of_its_pixels(task, labels, tmp_path):
    """The file of a view is what `merged.png` would be if this were the only view."""
    files = encode_labels(labels).files
    view = labels.views[0]
    maps = {
        "semseg": torch.full((HEIGHT * WIDTH,), 255, dtype=torch.uint8),
        "depth": torch.zeros(HEIGHT * WIDTH),
        "normals": torch.zeros(HEIGHT * WIDTH, 3),
    }
    alone = maps[task].index_copy(0, view.pixels, getattr(view, task)).view(HEIGHT, WIDTH, *maps[task].shape[1:])
    alone = alone.permute(2, 0, 1) if task == "normals" else alone
    expected = encode_labels(PanoramaLabels(**{task: alone})).files[f"{task}/merged.png"]
    assert files[f"{task}/label_0.png"] == expected


def test_what_is_not_known_has_no_file(labels):
    assert set(encode_labels(labels).files) == {
        *(f"{task}/{file}.png" for task in ("semseg", "depth", "normals") for file in ("merged", "merged_confidence")),
        *(f"{task}/label_0.png" for task in ("semseg", "depth", "normals")),
        "normals/label_1.png",
    }
    only = PanoramaLabels(depth=labels.depth, confidence={"depth": labels.confidence["depth"]})
    assert set(encode_labels(only).files) == {"depth/merged.png", "depth/merged_confidence.png"}
    assert set(encode_labels(PanoramaLabels(depth=torch.zeros(8, 16))).files) == {"depth/merged.png"}


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_far_and_near_distances():
    metres = [0.0, 1e-5, 0.0004, 0.0016, 1.0, 65.5344, 65.535, 65.5354, 65.536, 70.0, 131.1, 1e9, np.inf, np.nan, -2.0]
    encoded = encode_labels(PanoramaLabels(depth=torch.tensor([metres])))
    steps = [0, 1, 1, 2, 1000, 65534, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert decode(encoded.files["depth/merged.png"])[0].tolist() == steps
    assert encoded.too_far == 7


@pytest.mark.parametrize(
    ("normal", "colour"),
    [
        ((0, 0, 1), (255, 128, 128)),  # forward is red
        ((0, -1, 0), (128, 255, 128)),  # up is green
        ((-1, 0, 0), (128, 128, 255)),  # left is blue
        ((1, 0, 0), (128, 128, 0)),
        ((0, 0, 0), (128, 128, 128)),
    ],
)
def test_colours_of_normals(normal, colour):
    normals = torch.tensor(normal, dtype=torch.float32)[:, None, None].expand(3, 8, 16)
    stored = decode(encode_labels(PanoramaLabels(normals=normals)).files["normals/merged.png"])
    assert stored[0, 0, ::-1].tolist() == list(colour)


def test_confidence_in_steps():
    depth = torch.ones(1, 5)
    confidence = {"depth": torch.tensor([[0.0, 0.5, 1.0, 1.00001, 0.002]])}
    stored = decode(
        encode_labels(PanoramaLabels(depth=depth, confidence=confidence)).files["depth/merged_confidence.png"]
    )
    assert stored.tolist() == [[0, 128, 255, 255, 1]]


def test_the_same_bytes_every_time(labels):
    assert encode_labels(labels).files == encode_labels(labels).files


def test_an_image_of_any_size(tmp_path):
    image = np.full((100, 201, 3), (10, 200, 60), np.uint8)
    stored = cv2.cvtColor(decode(encode_image(image, 32, 64)), cv2.COLOR_BGR2RGB)
    assert stored.shape == (32, 64, 3)
    assert np.abs(stored.astype(int) - image[0, 0]).max() <= 2
