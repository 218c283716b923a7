"""The sky and the seam of a prediction."""

import numpy as np
import pytest
import torch
from analytic import Analytic, photo

from mtpano_zoo.prediction import predict


class Outdoors(Analytic):
    """Maps of its own with holes, and sky wherever the image is blue."""

    def __init__(self, tasks=("semseg", "depth", "normals"), classes=("ground", "wall", "sky"), input_size=(32, 64)):
        super().__init__(tasks, input_size)
        self.classes = classes
        generator = torch.Generator().manual_seed(1)
        self.depth = 1 + 9 * torch.rand(1, *input_size, generator=generator)
        self.depth[0, 3, 2], self.depth[0, 4, -3], self.depth[0, 5, -3] = torch.nan, -1, torch.inf
        self.normals = torch.randn(3, *input_size, generator=generator)
        self.normals[:, 6, 2] = 0

    def forward(self, image):
        maps = {"semseg": image, "depth": self.depth, "normals": self.normals}
        return {task: maps[task].expand(len(image), -1, -1, -1) for task in self.tasks}


@pytest.mark.parametrize("size", [(32, 64), (51, 102), (20, 40)])
def test_the_sky_has_neither_depth_nor_normal(size):
    network = Analytic()
    network.classes = ("ground", "wall", "sky")
    plain, masked = predict(network, photo(*size)), predict(network, photo(*size), mask_sky=True)
    sky = plain.semseg == 2
    assert 0.2 < sky.mean() < 0.8 and np.array_equal(masked.semseg, plain.semseg)
    assert not masked.depth[sky].any() and not masked.normals[sky].any()
    assert plain.depth.all() and plain.normals[sky].any(-1).all()
    assert np.array_equal(masked.depth[~sky], plain.depth[~sky])
    assert np.array_equal(masked.normals[~sky], plain.normals[~sky])
    network.tasks = ("semseg", "normals")
    assert predict(network, photo(), mask_sky=True).depth is None


def published_seam(values, known):
    """The published smoothing, one pixel after the other, in a map (H, W, ...) turned by half its width."""
    width = values.shape[1]
    values, known = np.roll(values, width // 2, 1).astype(float), np.roll(known, width // 2, 1)
    centre = width // 2
    for row in range(len(values)):
        for i, column in enumerate(range(centre - 2, centre + 2)):
            alpha = (i + 1) / 5
            line = (1 - alpha) * values[row, centre - 3] + alpha * values[row, centre + 2]
            if values.ndim == 3:
                line = line / max(np.linalg.norm(line), 1e-12)
            values[row, column] = line if known[row, centre - 3] and known[row, centre + 2] else 0
    return np.roll(values, -(width // 2), 1)


@pytest.mark.parametrize("mask_sky", [False, True])
def test_the_seam_is_blended_as_published(mask_sky):
    network, image = Outdoors(), np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    plain = predict(network, image, mask_sky=mask_sky)
    blended = predict(network, image, mask_sky=mask_sky, blend_seam=True)
    assert np.array_equal(blended.semseg, plain.semseg)
    depth, normals = plain.depth.copy(), plain.normals.copy()
    depth[4, -3] = 0  # the network's own value is no distance
    expected_depth = published_seam(depth, depth > 1e-4)
    expected_normals = published_seam(normals, normals.any(-1))
    expected_depth[4, -3] = plain.depth[4, -3]
    if mask_sky:  # what is sky stays empty between anchors that are not
        expected_depth[plain.semseg == 2] = 0
        expected_normals[plain.semseg == 2] = 0
    np.testing.assert_allclose(blended.depth, expected_depth, atol=1e-5)
    np.testing.assert_allclose(blended.normals, expected_normals, atol=1e-5)
    empty = ~blended.depth[:, [-2, -1, 0, 1]].any(1)
    assert empty[[3, 4, 5]].all() and (empty.sum() > 10 if mask_sky else empty.sum() == 3)
    assert not blended.normals[6, [-2, -1, 0, 1]].any()


@pytest.mark.parametrize("ranges", [(), (10.0,)])
def test_the_seam_is_not_blended_with_what_is_not_valid(ranges):
    """A distance that `valid` rejects is no value: it must not end up in the columns beside it."""

    class Masked(Outdoors):
        def forward(self, image):
            valid = torch.ones(1, 1, 32, 64)
            valid[..., 20, -3] = valid[..., 21, 2] = valid[..., 22, 0] = -1
            return {"depth": self.depth[None], "normals": self.normals[None], "valid": valid}

    network = Masked(("depth", "normals", "valid"))
    network.ranges = ranges
    network.depth[0, 20, -3] = network.depth[0, 21, 2] = 1000
    image = photo()
    plain, blended = predict(network, image), predict(network, image, blend_seam=True)
    four = [-2, -1, 0, 1]
    assert plain.depth[20:22, four].all() and not blended.depth[20:22, four].any()
    assert (blended.depth[22, four] > 0).tolist() == [True, True, False, True]
    assert bool(blended.normals[20:22, four].any()) == bool(ranges)  # what is only too far has a normal


def test_the_seam_of_inverse_distances_is_blended_at_any_scale():
    """What is far has an inverse distance near 0, which is a value."""

    class Far(Outdoors):
        def forward(self, image):
            return {"disparity": self.depth[None]}

    network = Far(("disparity",))
    network.depth = torch.rand(1, 32, 64, generator=torch.Generator().manual_seed(0))
    network.depth[0, :8, -3] = 0
    blended = predict(network, photo(), blend_seam=True).disparity
    network.depth *= 2**-14
    np.testing.assert_allclose(predict(network, photo(), blend_seam=True).disparity[8:], blended[8:] / 2**14, atol=1e-6)
    assert (blended > 0).all()


def test_the_seam_is_blended_in_the_size_of_the_network():
    """In a panorama twice as large, seven columns between the anchors change, and nothing beyond them does."""
    network, image = Outdoors(("depth",)), photo(64, 128)
    network.depth = torch.where(network.depth > 0, network.depth, 1.0).nan_to_num(1.0, 1.0)
    plain, blended = predict(network, image).depth, predict(network, image, blend_seam=True).depth
    changed = (plain != blended).any(0)
    assert changed[[-5, -4, -1, 0, 3, 4]].all() and not changed[5:-5].any()
    # Halfway between two columns of the network on either side of the edge, the line goes on.
    ends = network.depth[0, :, [-3, 2]].numpy()
    rows = blended[31:33].mean(0)[[-1, 0]]
    line = ends[15:17].mean(0) @ np.array([[0.55, 0.45], [0.45, 0.55]])
    np.testing.assert_allclose(rows, line, rtol=1e-5)


@pytest.mark.parametrize(("network", "options", "sentence"), [
    (Outdoors(classes=("ground", "wall", "air")), {"mask_sky": True}, "mask_sky .* lacks the class sky"),
    (Analytic(("depth",)), {"mask_sky": True}, "mask_sky .* lacks semseg"),
    (Analytic(("semseg",)), {"blend_seam": True}, "blend_seam works on distances and directions"),
])  # fmt: skip
def test_options_that_the_network_cannot_serve(network, options, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        predict(network, photo(), **options)
    assert "\n" not in str(caught.value) and not network.calls
