from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtpano_zoo.losses import edge_weighted_l1, frequency_l1, masked_l1, published

HEIGHT, WIDTH = 16, 32


def _case(seed=0, channels=3):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, channels, 2, 4, generator=g) / (12 * channels**0.5)
    target = torch.nn.functional.interpolate(coarse, scale_factor=8)
    prediction = target + 0.2 * torch.randn(2, channels, HEIGHT, WIDTH, generator=g)
    return prediction, target, torch.rand(2, HEIGHT, WIDTH, generator=g) > 0.05


def _neighbour(row, column):
    if row < 0 or row >= HEIGHT:
        row, column = (-1 - row if row < 0 else 2 * HEIGHT - 1 - row), column + WIDTH // 2
    return row, column % WIDTH


def _near_edges_by_hand(target, valid, threshold=0.55, radius=3):
    """Pixels within a radius of an edge, by loops over the sphere; target (C, H, W), valid (H, W)."""
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    edges = np.zeros((HEIGHT, WIDTH), bool)
    for r in range(HEIGHT):
        for c in range(WIDTH):
            around = [[_neighbour(r + i, c + j) for j in (-1, 0, 1)] for i in (-1, 0, 1)]
            if all(valid[p] for line in around for p in line):
                window = np.array([[target[(slice(None), *p)] for p in line] for line in around])
                g = [(k[..., None] * window).sum((0, 1)) for k in (kernel, kernel.T)]
                edges[r, c] = np.sqrt(np.square(g).sum()) >= threshold
    near = np.zeros_like(edges)
    steps = range(-radius, radius + 1)
    for r in range(HEIGHT):
        for c in range(WIDTH):
            near[r, c] = any(edges[_neighbour(r + i, c + j)] for i in steps for j in steps)
    return near


@pytest.mark.parametrize("channels", [1, 3])
def test_l1_is_summed_over_channels_and_averaged_over_valid_pixels(channels):
    p, t, valid = _case(channels=channels)
    by_hand = [abs(p[b, :, r, c] - t[b, :, r, c]).sum().item() for b, r, c in valid.nonzero().tolist()]
    assert masked_l1(p, t, valid).item() == pytest.approx(np.mean(by_hand), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_edge_term_agrees_with_loops(channels):
    p, t, valid = _case(channels=channels)
    near = np.stack([_near_edges_by_hand(t[b].numpy(), valid[b].numpy()) for b in range(2)])
    assert 0.1 < near.mean() < 0.95
    error = (p - t).abs().mean(1).numpy()
    v = valid.numpy()
    expected = 0.95 * error[near & v].mean() + 0.05 * error[~near & v].mean()
    assert edge_weighted_l1(p, t, valid).item() == pytest.approx(expected, rel=1e-5)


def test_borders_of_holes_are_edges_only_in_the_published_form():
    flat = torch.full((1, 1, HEIGHT, WIDTH), 0.5)
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, 5:9, 5:9] = False
    assert edge_weighted_l1(flat + 1, flat, valid).item() == pytest.approx(0.05)
    assert published.edge_weighted_l1(flat + 1, flat, valid).item() == pytest.approx(1.0)


def test_turns_that_keep_the_sum_of_the_components_are_edges():
    normals = torch.zeros(1, 3, HEIGHT, WIDTH)
    normals[:, 0, :, : WIDTH // 2] = 1
    normals[:, 1, :, WIDTH // 2 :] = 1
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    # The middle and the seam are edges, each with two columns and three more on either side; and so are both poles,
    # whose opposite meridians differ: 16 columns, and 8 rows of the other 16, three times what the error covers.
    error = torch.zeros_like(normals)
    error[..., WIDTH // 2 - 4 : WIDTH // 2 + 4] = 1
    assert edge_weighted_l1(normals + error, normals, valid).item() == pytest.approx(0.95 / 3)


def _frequency_by_hand(p, t, valid, as_published):
    """With the full spectrum, image by image; the tests use holes and a radius of an eighth of the height."""
    values = []
    for b in range(len(p)):
        v = valid[b].numpy()
        for c in range(p.shape[1]):
            fill = 0.0 if as_published else t[b, c].numpy()[v].mean(dtype=np.float64)
            spectra = [np.fft.fft2(np.where(v, x[b, c].double().numpy(), fill)) for x in (p, t)]
            ky, kx = np.fft.fftfreq(HEIGHT, 1 / HEIGHT)[:, None], np.fft.fftfreq(WIDTH, 1 / WIDTH)
            fp, ft = (s[np.hypot(ky, kx) > 2] for s in spectra)
            if as_published:
                phase = np.abs(np.angle(fp) - np.angle(ft))
                values.append(np.mean(np.abs(np.abs(fp) - np.abs(ft)) / 5 + phase))
            else:
                c0 = 1e-2 * np.mean(np.abs(ft) ** 2) + 1e-6
                phase = np.abs(fp - ft) ** 2 / (np.abs(fp) ** 2 + np.abs(ft) ** 2 + c0)
                scale = 32  # a 512 x 1024 map has 32 x 32 times the pixels
                values.append(np.mean(np.abs(np.abs(fp) - np.abs(ft)) * scale / 5 + phase))
    return np.mean(values)


def test_frequency_term_agrees_with_the_full_spectrum():
    p, t, valid = _case()
    assert frequency_l1(p, t, valid).item() == pytest.approx(_frequency_by_hand(p, t, valid, False), rel=1e-5)
    # Real frequencies have a phase of 0 or pi, up to a sign of zero: where it is -pi the plain difference jumps.
    value = published.frequency_l1(p, t, valid, radius=2)
    assert value.item() == pytest.approx(_frequency_by_hand(p, t, valid, True), rel=1e-2)


def test_low_frequencies_are_free():
    _, t, _ = _case()
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    columns = torch.arange(WIDTH) * (2 * torch.pi / WIDTH)
    assert frequency_l1(t + 0.3 * torch.cos(2 * columns), t, valid).item() < 1e-3
    assert frequency_l1(t + 0.3 * torch.cos(3 * columns), t, valid).item() > 0.05


def test_phase_term_is_one_minus_the_cosine_of_the_phase_difference():
    columns = torch.arange(WIDTH) * (2 * torch.pi / WIDTH)
    rows = torch.zeros(1, 1, HEIGHT, 1)
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    target = torch.cos(5 * columns) + rows
    for turn in (0.3, 1.5, 3.1, 6.0):
        shifted = torch.cos(5 * columns + turn) + rows
        value = frequency_l1(shifted, target, valid, amplitude_weight=0.0)
        # Only the two bins of this wave hold anything, out of those beyond the radius of 2.
        bins = HEIGHT * WIDTH - 13
        floor = 1e-2 / bins
        expected = 2 * (1 - np.cos(turn)) / (1 + floor) / bins
        assert value.item() == pytest.approx(expected, rel=1e-3)


def test_amplitudes_mean_the_same_at_every_size():
    g = torch.Generator().manual_seed(0)
    values = []
    for size in (16, 32, 64):
        p, t = torch.randn(2, 4, 1, size, 2 * size, generator=g)
        values.append(frequency_l1(p, t, torch.ones(4, size, 2 * size, dtype=torch.bool)).item())
    np.testing.assert_allclose(values, values[-1], rtol=0.1)


def test_images_without_a_label_do_not_dilute_the_frequency_term():
    p, t, valid = _case()
    valid[1] = False
    torch.testing.assert_close(frequency_l1(p, t, valid), frequency_l1(p[:1], t[:1], valid[:1]))


def test_a_constant_prediction_gets_a_bounded_gradient():
    _, t, valid = _case()
    norms = []
    for loss in (frequency_l1, partial(published.frequency_l1, radius=2)):
        p = (
            torch.ones_like(t) + 1e-6 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1))
        ).requires_grad_()
        loss(p, t, torch.ones_like(valid)).backward()
        norms.append(p.grad.norm().item())
    assert norms[0] < 10
    assert norms[1] > 1000


LOSSES = [masked_l1, edge_weighted_l1, frequency_l1]
PUBLISHED = [published.edge_weighted_l1, partial(published.frequency_l1, radius=2)]


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 255.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [*LOSSES, *PUBLISHED])
def test_invalid_pixels_take_no_part(loss, weighted, junk):
    p, t, valid = _case()
    weight = 0.1 + torch.rand(valid.shape, generator=torch.Generator().manual_seed(1))
    clean, soiled = {}, {}
    if weighted and loss in (masked_l1, edge_weighted_l1):
        clean, soiled = {"weight": weight}, {"weight": weight.masked_fill(~valid, junk)}
    expected = loss(p, t, valid, **clean)
    dirty = p.masked_fill(~valid[:, None], junk).requires_grad_()
    value = loss(dirty, t.masked_fill(~valid[:, None], junk), valid, **soiled)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert dirty.grad.isfinite().all() and not dirty.grad[~valid[:, None].expand_as(p)].any()
    assert dirty.grad.any()
    if loss in LOSSES:
        assert torch.equal((dirty.grad != 0).any(1), valid)


@pytest.mark.parametrize("loss", [*LOSSES, *PUBLISHED])
def test_without_valid_pixels_loss_and_gradient_are_zero(loss):
    p, t, valid = _case()
    p.requires_grad_()
    value = loss(p, t * torch.nan, torch.zeros_like(valid))
    value.backward()
    assert value.item() == 0
    assert not p.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_truth_costs_nothing(loss):
    _, t, valid = _case()
    assert loss(t.clone(), t, valid).item() == pytest.approx(0, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), roll=st.integers(-40, 40))
@pytest.mark.parametrize("loss", LOSSES)
def test_yaw_does_not_matter(loss, seed, roll):
    p, t, valid = _case(seed)
    turned = loss(p.roll(roll, -1), t.roll(roll, -1), valid.roll(roll, -1))
    torch.testing.assert_close(turned, loss(p, t, valid), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_make_weighted_means(channels):
    p, t, valid = _case(channels=channels)
    weight = torch.rand(valid.shape, generator=torch.Generator().manual_seed(1))
    v, w = valid.numpy(), weight.numpy()
    error = (p - t).abs().numpy()
    expected = np.average(error.sum(1)[v], weights=w[v])
    assert masked_l1(p, t, valid, weight).item() == pytest.approx(expected, rel=1e-5)
    near = np.stack([_near_edges_by_hand(t[b].numpy(), v[b]) for b in range(2)])
    inside, outside = (np.average(error.mean(1)[m], weights=w[m]) for m in (near & v, ~near & v))
    value = edge_weighted_l1(p, t, valid, weight=weight).item()
    assert value == pytest.approx(0.95 * inside + 0.05 * outside, rel=1e-5)
    assert masked_l1(p, t, valid, torch.zeros_like(weight)).item() == 0
