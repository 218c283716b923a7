"""Sources that `predict` accepts, and those that it refuses."""

import numpy as np
import pytest
import torch
from analytic import Analytic, photo
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.prediction import Prediction, predict


def test_all_sources_give_the_same(tmp_path):
    image = photo()
    Image.fromarray(image).save(tmp_path / "a.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    network = Analytic()
    expected = predict(network, image)
    read_only = image.copy()
    read_only.setflags(write=False)
    sources = (str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(image), tensor, tensor.double(), read_only)
    sources += (np.ascontiguousarray(image[:, ::-1, ::-1])[:, ::-1, ::-1],)  # as BGR from OpenCV is turned into RGB
    for source in sources:
        prediction = predict(network, source)
        assert isinstance(prediction, Prediction)
        assert np.array_equal(prediction.image, image)
        np.testing.assert_allclose(prediction.depth, expected.depth, rtol=1e-6)
        assert np.array_equal(prediction.semseg, expected.semseg)


def test_batches_and_sequences_go_through_together():
    network = Analytic()
    batch = predict(network, torch.rand(3, 3, 20, 40))
    assert len(batch) == 3 and batch[2].depth.shape == (20, 40)
    assert len(predict(network, torch.rand(1, 3, 20, 40))) == 1
    mixed = predict(network, [photo(20, 40), torch.rand(3, 50, 100)])
    assert [prediction.depth.shape for prediction in mixed] == [(20, 40), (50, 100)]
    assert [shape for shape, *_ in network.calls] == [(3, 3, 32, 64), (1, 3, 32, 64), (2, 3, 32, 64)]
    assert predict(network, []) == predict(network, torch.rand(0, 3, 20, 40)) == []


@pytest.mark.parametrize(("source", "sentence"), [
    (np.zeros((32, 64), np.uint8), "an array is"),
    (np.zeros((32, 64, 4), np.uint8), "an array is"),
    (np.zeros((32, 64, 3), np.float32), "an array is .* of float32"),
    (np.zeros((30, 40, 3), np.uint8), "the array is 40 x 30 pixels"),
    (torch.zeros(32, 64), r"not \(32, 64\)"),
    (torch.zeros(1, 32, 64), r"not \(1, 32, 64\)"),
    (torch.zeros(32, 64, 3), r"not \(32, 64, 3\)"),
    (torch.zeros(2, 4, 32, 64), r"not \(2, 4, 32, 64\)"),
    (torch.zeros(3, 32, 64, dtype=torch.uint8), "divide 8-bit values by 255"),
    (torch.zeros(3, 30, 40), "the tensor is 40 x 30"),
    (torch.full((3, 32, 64), torch.nan), "NaN"),
    (torch.full((3, 32, 64), torch.inf), "NaN or infinite"),
    (torch.full((3, 32, 64), 255.0), r"0, 1\]"),
    (torch.full((3, 32, 64), -1.0), "from -1 to -1"),
    (17, "not int"),
    (None, "not NoneType"),
])  # fmt: skip
def test_bad_sources_are_refused_with_a_sentence(source, sentence):
    network = Analytic()
    with pytest.raises(ValueError, match=sentence) as caught:
        predict(network, source)
    assert "\n" not in str(caught.value)
    assert not network.calls and network.training


@pytest.mark.parametrize(
    ("option", "value"), [("fov", (90, 60)), ("vertical_offset", 10.0), ("eye", "left"), ("ignore_tags", True)]
)
def test_options_that_place_a_file_are_refused_for_pixels(option, value):
    image = photo()
    for source in (image, Image.fromarray(image), torch.rand(3, 32, 64), [image]):
        with pytest.raises(InputError, match=f"{option} says how a file is read"):
            predict(Analytic(), source, **{option: value})
    assert predict(Analytic(), image, fov=None, vertical_offset=0.0, force=True).depth.shape == (32, 64)


def test_a_tensor_may_leave_its_range_by_rounding():
    tensor, mean, spread = torch.tensor([0.0, 1.0]).repeat(3, 32, 32), 0.485, 0.229
    restored = ((tensor - mean) / spread).bfloat16() * spread + mean
    assert restored.min() < 0
    prediction = predict(Analytic(), restored)
    assert np.array_equal(np.unique(prediction.image), [0, 255])
    assert prediction.depth.min() >= 1 and prediction.depth.max() <= 5


def test_a_tensor_with_a_gradient_is_only_read(recwarn):
    image = torch.rand(3, 32, 64, requires_grad=True)
    predict(Analytic(), image)
    assert not recwarn.list and image.requires_grad


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        predict(Analytic(), tmp_path / "none.jpg")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="not an image"):
        predict(Analytic(), tmp_path / "a.jpg")
