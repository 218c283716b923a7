import numpy as np
import pytest

from mtpano_zoo.point_cloud import clean_points
from mtpano_zoo.prediction import Prediction


def test_a_cloud_keeps_what_is_no_edge_and_not_below() -> None:
    depth = np.full((8, 16), 2, np.float32)
    depth[:, 4:8] = 5  # two edges
    depth[2, 12] = 0  # no value is no edge
    kept = clean_points(depth, edge=2.0)
    expected = np.ones((8, 16), bool)
    expected[:, [3, 4, 7, 8]] = False
    expected[2, 12] = False
    assert np.array_equal(kept, expected)
    assert clean_points(depth, edge=2.6).sum() == clean_points(depth).sum() == 127
    assert clean_points(depth, nadir=45.0).any(1).tolist() == [True] * 6 + [False] * 2
    prediction = Prediction(np.zeros((8, 16, 3), np.uint8), {"depth": depth}, (), np.zeros((0, 3), np.uint8))
    points, _ = prediction.point_cloud(edge=2.0, nadir=45.0)
    assert len(points) == 6 * 12 - 1
    assert (points[:, 1] < np.sin(np.deg2rad(45)) * 5).all()


def test_edges_are_found_across_the_seam_but_not_over_the_lowest_row() -> None:
    depth = np.ones((4, 8), np.float32)
    depth[:, 0], depth[0] = 3, 9
    kept = clean_points(depth, edge=2.0)
    assert not kept[3, [0, 1, 7]].any() and kept[3, 2:7].all() and not kept[:2].any()


@pytest.mark.parametrize(("arguments", "message"), [({"edge": 1.0}, "ratio"), ({"nadir": -1.0}, "angle")])
def test_what_does_not_fit_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean_points(np.ones((4, 8), np.float32), **arguments)
