"""The discriminator of depth labels: it has no seam, sees scale and holes, and learns with all of its weights."""

import pytest
import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator


def tiny(**options):
    torch.manual_seed(0)
    return PatchDiscriminator(**{"input_size": (16, 32), "width": 4, "levels": 2} | options)


@pytest.fixture
def seen():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 32, generator=generator), 1 + torch.rand(2, 1, 16, 32, generator=generator)


def test_it_has_no_seam(seen):
    image, depth = seen
    network = tiny().eval()
    turned = network.score_map(image.roll(12, -1), depth.roll(12, -1))
    torch.testing.assert_close(turned, network.score_map(image, depth).roll(12, -1))
    assert network(image, depth).shape == (2, 1, 4, 8)


def test_it_sees_the_scale_and_holes(seen):
    image, depth = seen
    network = tiny().eval()
    assert (network(image, 2 * depth) - network(image, depth)).abs().max() > 1e-4
    depth[:, :, 3:9, 4:20] = 1  # whose logarithm is what holes have
    score = network.score_map(image, depth)
    depth[:, :, 3:9, 4:20] = 0
    changed = network.score_map(image, depth)
    assert changed.isfinite().all() and (changed - score).abs().max() > 1e-4


def test_it_compares_image_and_distance_at_every_place(seen):
    """Mirroring the distances changes the products, although the image's own features stay the same."""
    network, products = tiny(levels=2).eval(), []
    network.layers[0].register_forward_pre_hook(lambda _, inputs: products.append(inputs[0].chunk(3, dim=1)))
    network(*seen)
    image, distance, product = products[0]
    norm = network.product_norms[0]
    torch.testing.assert_close(product, norm(image) * norm(distance))
    network(seen[0], seen[1].flip(-1))
    assert torch.equal(products[1][0], image) and not torch.allclose(products[1][2], product, atol=1e-3)


def test_several_labels_of_a_panorama_are_judged_as_one_by_one(seen):
    image, depth = seen
    network, labels = tiny().eval(), torch.cat((depth, 2 * depth, depth.flip(-1)), 1)
    one_by_one = torch.cat([network(image, label[:, None]) for label in labels.unbind(1)], 1)
    torch.testing.assert_close(network(image, labels), one_by_one)
    for one, other in zip(network.judge(image, labels)[1], network.judge(image, depth)[1], strict=True):
        torch.testing.assert_close(one, other)


def test_products_and_differences_reach_the_last_level(seen):
    image, depth = seen
    network, inputs, features = tiny(levels=3).eval(), [], {}
    network.last.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    for name in ("image_layers", "distance_layers"):
        getattr(network, name)[2].register_forward_hook(
            lambda _, __, out, name=name: features.update({name: torch.nn.functional.leaky_relu(out, 0.2)})
        )
    _, estimates = network.judge(image, depth)
    pixels, distances = features["image_layers"], features["distance_layers"]
    norm, width = network.product_norms[2], pixels.shape[1]
    product = inputs[0][:, 3 * width : 4 * width]
    torch.testing.assert_close(product, norm(pixels) * norm(distances))
    size = estimates[-1].shape[-2:]
    known = torch.nn.functional.adaptive_avg_pool2d((depth > 0).float(), size)
    mean = torch.nn.functional.adaptive_avg_pool2d(torch.where(depth > 0, depth, 1).log(), size)
    difference = mean - known * estimates[-1]
    torch.testing.assert_close(inputs[0][:, 4 * width :], torch.cat((difference, difference.abs()), 1))


def test_estimates_are_of_the_image_alone(seen):
    image, depth = seen
    network = tiny(levels=3).eval()
    _, estimates = network.judge(image, depth)
    assert [tuple(one.shape[-2:]) for one in estimates] == [(4, 8), (2, 4)]
    _, again = network.judge(image, 2 * depth)
    _, other = network.judge(1 - image, depth)
    for one, two, three in zip(estimates, again, other, strict=True):
        assert torch.equal(one, two) and not torch.allclose(one, three)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_a_patch_is_a_pixel_of_the_result(levels, seen):
    assert tiny(levels=levels)(*seen).shape == (2, 1, 16 // 2**levels, 32 // 2**levels)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_all_weights_learn(spectral_norm, seen):
    network = tiny(spectral_norm=spectral_norm).train()
    network(*seen).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_spectral_norm_bounds_every_layer(seen):
    network = tiny(spectral_norm=True).train()
    for _ in range(50):  # the power iteration converges
        network(*seen)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert float(largest) == pytest.approx(1, abs=0.02)


def test_another_size_is_refused(seen):
    image, depth = seen
    with pytest.raises(InputError, match="the labels are 8 x 16, but the discriminator judges 16 x 32"):
        tiny()(image[..., :8, :16], depth[..., :8, :16])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": (16, 16)}, "height and twice the height"),
        ({"input_size": (12, 24), "levels": 3}, "halved 3 times: got 12 x 24"),
        ({"levels": 0}, "must be positive, got 4 and 0"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        tiny(**options)
