import numpy as np
import pytest

from mtpano_zoo.viz import colour_depth, colour_normals, colour_semseg, default_palette, depth_range


@pytest.mark.parametrize("count", [0, 1, 13, 40, 150, 256, 512])
def test_palette_has_different_colours_and_no_black(count):
    palette = default_palette(count)
    assert palette.shape == (count, 3) and palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == count
    assert count == 0 or palette.max(1).min() > 100


def test_palette_is_stable_and_its_first_colours_lie_apart():
    assert np.array_equal(default_palette(20)[:13], default_palette(13))
    for count, least in ((13, 30), (256, 20)):
        palette = default_palette(count).astype(float)
        distance = np.linalg.norm(palette[:, None] - palette, axis=-1)
        assert distance[~np.eye(count, dtype=bool)].min() > least


def test_classes_take_their_colours_and_the_rest_is_black():
    palette = [[10, 0, 0], [0, 20, 0], [0, 0, 30]]
    labels = np.array([[0, 1, 2], [255, 3, -1]])
    expected = [[[10, 0, 0], [0, 20, 0], [0, 0, 30]], [[0, 0, 0]] * 3]
    assert colour_semseg(labels, palette).tolist() == expected
    assert colour_semseg(np.array([[2, 255]], np.uint8), palette).tolist() == [[[0, 0, 30], [0, 0, 0]]]
    assert colour_semseg(np.array([[255]], np.uint8), np.zeros((0, 3))).tolist() == [[[0, 0, 0]]]


def test_depth_goes_from_blue_to_red():
    depth = np.array([[1.0, 2, 3, 0.5, 9, 0, np.nan, np.inf, -1]])
    near, middle, far, nearer, farther, *none = colour_depth(depth, 1, 3)[0].tolist()
    assert near == nearer and far == farther
    assert near[2] > near[0] and far[0] > far[2] and middle[1] > 200
    assert none == [[0, 0, 0]] * 4


def test_range_of_depth_leaves_out_outliers_and_what_is_invalid():
    depth = np.linspace(2, 4, 10_000).reshape(100, 100)
    depth[0, :50], depth[1, 0], depth[2, 0], depth[3, 0] = 0, np.nan, np.inf, 1e6
    low, high = depth_range(depth)
    assert 2 < low < 2.05 and 3.95 < high < 4
    assert depth_range(np.zeros((4, 8))) == (0.0, 1.0)
    low, high = depth_range(np.full((4, 8), 3.0))
    assert low == 3 and high > low
    large = np.tile(np.linspace(2, 4, 4096), (600, 1))  # more than a million pixels are sampled
    np.testing.assert_allclose(depth_range(large), (2.02, 3.98), atol=0.01)


def test_normals_have_the_colours_of_their_axes():
    normals = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1], [0, 0, 0]]], float)
    expected = [[[255, 128, 128], [128, 255, 128], [128, 128, 255], [128, 128, 1], [128, 128, 128]]]
    assert colour_normals(normals).tolist() == expected
