import pytest
import torch

from mtpano_zoo.losses import check_batch, valid_depth, valid_normals, valid_semseg
from mtpano_zoo.losses.validity import trusted


def test_semseg_counts_only_classes_in_range():
    labels = torch.tensor([[[-1, 0, 12, 13, 254, 255]]])
    assert valid_semseg(labels, 13).tolist() == [[[False, True, True, False, False, False]]]
    assert valid_semseg(labels, 13, ignore_index=0).tolist() == [[[False, False, True, False, False, False]]]
    assert not valid_semseg(torch.tensor([255]), 300).item()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_semseg_labels_of_short_types_are_compared_as_numbers(dtype):
    labels = torch.arange(120).to(dtype)
    assert valid_semseg(labels, 300).all()  # not all types hold 300, nor -1 or 255
    assert valid_semseg(labels, 300, ignore_index=-1).all()
    assert valid_semseg(labels, 40).sum() == 40
    assert valid_semseg(torch.tensor([255], dtype=torch.uint8), 300, ignore_index=-1).all()
    assert not valid_semseg(torch.tensor([-1], dtype=torch.int8), 300).any()


def test_weights_are_trusted_where_they_are_positive_numbers():
    weight = torch.tensor([0.0, 0.5, 1.0, -1.0, torch.nan, torch.inf])
    assert trusted(torch.ones(6, dtype=torch.bool), weight).tolist() == [False, True, True, False, False, False]
    valid = torch.tensor([True, False, True, True, True, False])
    assert trusted(valid, weight).tolist() == [False, False, True, False, False, False]
    assert trusted(valid, None) is valid


def test_depth_counts_only_finite_numbers_inside_the_limits():
    depth = torch.tensor([0.0, -1.0, 1e-3, 2.0, 10.0, 99.0, torch.nan, torch.inf])
    assert valid_depth(depth).tolist() == [False, False, True, True, True, True, False, False]
    assert valid_depth(depth, 1e-3, 10.0).tolist() == [False, False, False, True, False, False, False, False]


def test_normals_count_if_finite_and_not_faded():
    normals = torch.zeros(1, 3, 1, 5)
    normals[0, :, 0, 1] = torch.tensor([0.0, 0.6, -0.8])
    normals[0, :, 0, 2] = torch.tensor([0.2, 0.2, 0.2])
    normals[0, 1, 0, 3] = torch.nan
    normals[0, 1, 0, 4] = torch.inf
    assert valid_normals(normals).tolist() == [[[False, True, False, False, False]]]
    assert valid_normals(normals[0]).shape == (1, 5)


def _batch():
    return {
        "image": torch.rand(2, 3, 4, 8),
        "semseg": torch.full((2, 4, 8), 255),
        "depth": torch.ones(2, 4, 8),
        "normals": torch.zeros(2, 3, 4, 8),
        "id": ["a", "b"],
    }


def test_a_sound_batch_passes():
    batch = _batch()
    check_batch(batch, 13)
    batch["semseg"][0, 0, :2] = torch.tensor([0, 12])
    batch["depth"][0, 0, 0] = torch.nan
    check_batch(batch, 13)
    check_batch({"image": batch["image"]}, 13)


@pytest.mark.parametrize("wrong", [13, 254, -1])
def test_classes_out_of_range_are_named(wrong):
    batch = _batch()
    batch["semseg"][1, 2, 3] = wrong
    with pytest.raises(ValueError, match=rf"classes \[{wrong}\], but there are 13"):
        check_batch(batch, 13)


def test_labels_of_wrong_type_or_size_are_refused():
    with pytest.raises(ValueError, match="must be integers"):
        check_batch(_batch() | {"semseg": torch.zeros(2, 4, 8)}, 13)
    with pytest.raises(ValueError, match=r"depth labels are \(2, 4\) but the image is \(4, 8\)"):
        check_batch(_batch() | {"depth": torch.ones(2, 2, 4)}, 13)
