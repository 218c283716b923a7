import pytest
import torch

from mtpano_zoo.errors import InputError
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


@pytest.mark.parametrize(("change", "sentence"), [
    ({"semseg": torch.zeros(2, 4, 8)}, "semseg labels must be integers, got torch.float32"),
    ({"depth": torch.ones(2, 2, 4)}, r"depth must be \(2, 4, 8\) to fit the image, got \(2, 2, 4\)"),
    ({"depth": torch.ones(2, 1, 4, 8)}, r"depth must be \(2, 4, 8\) to fit the image, got \(2, 1, 4, 8\)"),
    ({"depth": torch.ones(1, 4, 8)}, r"depth must be \(2, 4, 8\)"),
    ({"semseg": torch.zeros(2, 1, 4, 8).long()}, r"semseg must be \(2, 4, 8\)"),
    ({"normals": torch.zeros(2, 1, 4, 8)}, r"normals must be \(2, 3, 4, 8\)"),
    ({"depth": torch.full((2, 4, 8), 1500)}, "depth must be floating point, got torch.int64"),
    ({"far": torch.zeros(2, 4, 8)}, "far must be bool, got torch.float32"),
    ({"image": torch.zeros(2, 3, 4, 8).byte()}, r"image must be floating point .* in \[0, 1\], got torch.uint8"),
    ({"image": torch.zeros(2, 4, 8, 3)}, r"image must be .* got torch.float32 \(2, 4, 8, 3\)"),
    ({"image": torch.zeros(3, 4, 8)}, "image must be"),
    ({"image": torch.full((2, 3, 4, 8), 128.0)}, "from 128 to 128 instead of"),
    ({"image": (torch.zeros(2, 3, 4, 8) - 0.485) / 0.229}, "leave the normalisation to the network"),
    ({"image": torch.full((2, 3, 4, 8), torch.nan)}, "from nan to nan"),
])  # fmt: skip
def test_maps_of_wrong_type_size_or_range_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        check_batch(_batch() | change, 13)
    assert "\n" not in str(caught.value)


def test_an_image_may_leave_its_range_as_filters_do():
    wave = torch.tensor([0.0, 1.0]).repeat(2, 3, 8, 8)
    larger = torch.nn.functional.interpolate(wave, scale_factor=2, mode="bicubic")
    assert larger.min() < 0 and larger.max() > 1
    check_batch({"image": larger}, 13)
