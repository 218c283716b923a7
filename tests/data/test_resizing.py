"""Resizing against loops over pixels."""

import math
import warnings

import numpy as np
import pytest

from mtpano_zoo.data.resizing import resize_map
from mtpano_zoo.sphere import erp_rays

RANDOM = np.random.default_rng(0)
SIZES = [((16, 32), (8, 16)), ((16, 32), (12, 24)), ((8, 16), (12, 24)), ((7, 15), (5, 10)), ((8, 16), (24, 48))]


def nearest(i, size, new_size):
    """The sample whose cell holds the centre of the new one; on an edge, the later."""
    return math.floor((i + 0.5) * size / new_size + 1e-9)


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_labels_and_depth_take_the_nearest_pixel(size, new):
    classes = RANDOM.integers(0, 256, size, dtype=np.uint8)
    expected = [[classes[nearest(i, size[0], new[0]), nearest(j, size[1], new[1])] for j in range(new[1])]
                for i in range(new[0])]  # fmt: skip
    assert np.array_equal(resize_map("semseg", classes, *new), expected)
    depth = classes.astype(np.float32) / 7
    assert np.array_equal(resize_map("depth", depth, *new), np.array(expected, np.float32) / 7)


@pytest.mark.parametrize(("size", "new"), [sizes for sizes in SIZES if sizes[0] >= sizes[1]])
def test_images_shrink_by_area(size, new):
    image = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)

    def overlap(old_count, new_count):
        """Share (new, old) of every new pixel that each old one covers."""
        edges = np.arange(old_count + 1) / old_count
        low, high = (np.arange(new_count) / new_count)[:, None], ((np.arange(new_count) + 1) / new_count)[:, None]
        return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * new_count

    expected = np.einsum("ia,jb,abc->ijc", overlap(size[0], new[0]), overlap(size[1], new[1]), image)
    shrunk = resize_map("image", image, *new)
    assert shrunk.dtype == np.uint8
    assert np.abs(shrunk - expected).max() <= 0.51


def test_images_grow_around_the_seam():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 0] = 200
    image.flags.writeable = False  # as decoders of some files give it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grown = resize_map("image", image, 16, 32)
    assert grown.shape == (16, 32, 3) and grown.dtype == np.uint8
    assert grown[3, :, 0].tolist() == [150, 150, 50, *[0] * 28, 50]  # half a pixel more: 1/4 and 3/4
    turned = resize_map("image", np.roll(image, 5, 1), 16, 32)
    assert np.array_equal(turned, np.roll(grown, 10, 1))


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_normals_stay_unit_vectors_and_holes_holes(size, new):
    vectors = erp_rays(*size).numpy()
    vectors[RANDOM.random(size) < 0.3] = 0
    expected = np.zeros((*new, 3))
    for i in range(new[0]):
        for j in range(new[1]):
            v, u = (i + 0.5) * size[0] / new[0] - 0.5, (j + 0.5) * size[1] / new[1] - 0.5
            top, left = math.floor(v), math.floor(u)
            total = np.zeros(3)
            for row, weight in ((top, 1 - (v - top)), (top + 1, v - top)):
                for column, share in ((left, 1 - (u - left)), (left + 1, u - left)):
                    total += weight * share * vectors[min(max(row, 0), size[0] - 1), column % size[1]]
            if vectors[nearest(i, size[0], new[0]), nearest(j, size[1], new[1])].any():
                expected[i, j] = total / np.linalg.norm(total)
    resized = resize_map("normals", vectors, *new)
    assert resized.dtype == np.float32
    assert np.abs(resized - expected).max() <= 1e-5
    length = np.linalg.norm(resized, axis=-1)
    assert 0 < (length == 0).sum() < length.size
    assert np.abs(length[length > 0] - 1).max() <= 1e-6


def test_the_same_size_is_left_as_it_is():
    for role, shape in (("image", (8, 16, 3)), ("semseg", (8, 16)), ("depth", (8, 16)), ("normals", (8, 16, 3))):
        values = RANDOM.random(shape).astype(np.float32)
        assert resize_map(role, values, 8, 16) is values
