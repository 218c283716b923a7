import numpy as np

from mtpano_zoo.data import S3DIS_CLASSES, S3DIS_PALETTE

ORDER = "ceiling, floor, wall, beam, column, window, door, table, chair, sofa, bookcase, board, clutter"


def test_classes_are_in_the_standard_order():
    assert ", ".join(S3DIS_CLASSES) == ORDER


def test_every_class_has_a_colour_of_its_own():
    assert S3DIS_PALETTE.shape == (13, 3) and S3DIS_PALETTE.dtype == np.uint8
    distance = np.abs(S3DIS_PALETTE[:, None].astype(int) - S3DIS_PALETTE[None].astype(int)).sum(-1)
    assert (distance + 1000 * np.eye(13, dtype=int)).min() > 60
    assert not S3DIS_PALETTE.flags.writeable
