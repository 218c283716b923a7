"""Losses for maps of numbers: prediction and target (B, C, H, W), mask of the pixels that count (B, H, W).

Values outside the mask, even NaN, change neither loss nor gradient. A weight (B, H, W) in [0, 1] turns means over
pixels into weighted means. With ``across_ranks``, means are over all processes (see `mtpano_zoo.losses.means.mean`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.losses.auxiliary import sobel
from mtpano_zoo.losses.means import mean, middle_values, weighted_mean
from mtpano_zoo.sphere import pad

__all__ = (
    "affine_invariant_l1",
    "any_around",
    "edge_surroundings",
    "edge_weighted_l1",
    "frequency_l1",
    "high_frequencies",
    "masked_l1",
    "target_spectrum",
)

# The published weights were set at this size; spectra are scaled to it, so that they mean the same at every size.
_REFERENCE_HEIGHT, _REFERENCE_WIDTH = 512, 1024
# Values that deviate less than this from their median, relative to the largest one, are equal but for rounding.
ROUNDING = 1e-5


def masked_l1(
    prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None, across_ranks: bool = False
) -> Tensor:
    """Return the absolute error, summed over channels: (weighted) mean over the batch's valid pixels; zero if none.

    Example:
        >>> prediction, target = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[3.0, float("nan")]]]])
        >>> masked_l1(prediction, target, torch.tensor([[[True, False]]])).item()
        2.0
    """
    mask = valid[:, None]
    error = (torch.where(mask, prediction, 0) - torch.where(mask, target, 0)).abs().sum(1)
    return weighted_mean(error, valid, weight, across_ranks)


def edge_weighted_l1(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    threshold: float = 0.55,
    radius: int = 3,
    share: float = 0.95,
    weight: Tensor | None = None,
    across_ranks: bool = False,
    near: Tensor | None = None,
) -> Tensor:
    """Return the absolute error with ``share`` of its weight on the surroundings of the target's edges.

    An edge is where the Sobel magnitude over all channels reaches ``threshold``; its surroundings reach ``radius``
    pixels further. Filter and surroundings wrap at the seam and continue over the poles, and a filter that touches an
    invalid pixel finds no edge. The error is the mean over channels. ``near`` is what `edge_surroundings` returned for
    the same target, if already computed.

    Example:
        >>> target = torch.ones(1, 1, 4, 8)
        >>> valid = torch.ones(1, 4, 8, dtype=torch.bool)
        >>> round(edge_weighted_l1(target + 2, target, valid, share=0.0).item(), 3)
        2.0
    """
    mask = valid[:, None]
    prediction = torch.where(mask, prediction, 0)
    target = torch.where(mask, target, 0)
    near = edge_surroundings(target, valid, threshold, radius) if near is None else near
    error = (prediction - target).abs().mean(1, keepdim=True)
    weights = None if weight is None else weight[:, None]
    inner = weighted_mean(error, near & mask, weights, across_ranks)
    return share * inner + (1 - share) * weighted_mean(error, ~near & mask, weights, across_ranks)


def edge_surroundings(target: Tensor, valid: Tensor, threshold: float = 0.55, radius: int = 3) -> Tensor:
    """Return the mask (B, 1, H, W) of the surroundings of a map's edges (B, C, H, W), see `edge_weighted_l1`.

    Example:
        >>> wall = torch.zeros(1, 1, 16, 32)
        >>> wall[..., 8:24] = 1.0
        >>> edge_surroundings(wall, wall[:, 0] >= 0)[0, 0, 8].nonzero().flatten().tolist()[:8]
        [4, 5, 6, 7, 8, 9, 10, 11]
    """
    mask = valid[:, None]
    gx, gy = sobel(pad(torch.where(mask, target, 0), (1, 1, 1, 1)))
    edges = (gx.square() + gy.square()).sum(1, keepdim=True) >= threshold**2
    edges = edges & ~any_around(pad((~mask).float(), (1, 1, 1, 1)), 3)
    return any_around(pad(edges.float(), (radius, radius, radius, radius)), 2 * radius + 1)


def frequency_l1(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    radius: float = 64,
    amplitude_weight: float = 0.2,
    across_ranks: bool = False,
    spectrum: tuple[Tensor, ...] | None = None,
) -> Tensor:
    """Return the distance between the high frequencies of two maps, in amplitude and in phase.

    Frequencies up to ``radius`` (cycles per image at 512 rows) are left out. Invalid pixels of both maps are set to the
    mean of the target, and images without any valid pixel do not count. Amplitudes are scaled to those of a 512 x 1024
    map. The phases are compared by |P - T|^2 / (|P|^2 + |T|^2 + c), with c a hundredth of the mean power of the target:
    this is 1 - cos of the phase difference where the amplitudes agree, wraps, and has a bounded gradient. ``spectrum``
    is what `target_spectrum` returned for the same target, if already computed.

    Example:
        >>> target = torch.rand(1, 1, 8, 16)
        >>> valid = torch.ones(1, 8, 16, dtype=torch.bool)
        >>> frequency_l1(target, target, valid).item() < 1e-5
        True
    """
    height, width = target.shape[-2:]
    known = valid.flatten(1).any(1)
    t, amplitudes, power, weight, hole = spectrum or target_spectrum(target, valid, radius)
    p = torch.fft.rfft2(torch.where(valid[:, None], prediction, hole))
    phase = _power(p - t) / (_power(p) + power)
    scale = (_REFERENCE_HEIGHT * _REFERENCE_WIDTH / (height * width)) ** 0.5
    amplitude = (p.abs() - amplitudes).abs()
    per_image = ((amplitude_weight * scale * amplitude + phase) * weight).mean(dim=(1, 2, 3))
    return mean(torch.where(known, per_image, 0).sum(), known.sum(), across_ranks=across_ranks)


def target_spectrum(target: Tensor, valid: Tensor, radius: float = 64) -> tuple[Tensor, ...]:
    """Return what `frequency_l1` needs of a target, computed once for all its predictions.

    Returns:
        The spectrum and its amplitudes (B, C, H, W // 2 + 1), its power plus the constant c, the weights
        (H, W // 2 + 1) of the frequencies, and the value (B, C, 1, 1) of invalid pixels.

    Example:
        >>> target = torch.full((1, 1, 4, 8), 3.0)
        >>> target_spectrum(target, target[:, 0] > 0)[-1].item()
        3.0
    """
    mask = valid[:, None]
    height, width = target.shape[-2:]
    target = torch.where(mask, target, 0)
    hole = target.sum(dim=(2, 3), keepdim=True) / mask.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    t = torch.fft.rfft2(torch.where(mask, target, hole))
    weight = high_frequencies(height, width, radius * height / _REFERENCE_HEIGHT, valid.device)
    power = _power(t)
    power = power + (1e-2 * (power * weight).mean(dim=(2, 3), keepdim=True) + 1e-6)
    return t, t.abs(), power, weight, hole


def affine_invariant_l1(
    prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None, across_ranks: bool = False
) -> Tensor:
    """Return the mean absolute difference of maps (B, H, W) that are each known up to scale and shift.

    Each map of each image is normalised to median 0 and mean absolute deviation 1 over its valid pixels (MiDaS, arXiv
    1907.01341, equations 5 and 6). An image contributes nothing if it has no valid pixels, or if their targets are all
    equal. Equal predictions are 0 after the normalisation and have no gradient.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
        >>> affine_invariant_l1(3 * target + 5, target, target > 0).item() < 1e-6
        True
    """
    (p, _), (t, spread) = (_normalised(torch.where(valid, x, 0), valid) for x in (prediction, target))
    return weighted_mean((p - t).abs(), valid & spread, weight, across_ranks)


def _normalised(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps (B, H, W) with median 0 and mean absolute deviation 1, or 0 where an image's values are all equal.

    The second result (B, 1, 1) is whether they differ by more than rounding.
    """
    count = valid.sum(dim=(1, 2), keepdim=True)
    median = middle_values(values, valid)[0][:, None, None]
    centred = torch.where(valid, values - torch.where(count > 0, median, 0), 0)
    deviation = centred.abs().sum(dim=(1, 2), keepdim=True) / count.clamp(min=1)
    differs = (deviation > ROUNDING * values.detach().abs().amax(dim=(1, 2), keepdim=True)) | ~deviation.isfinite()
    return torch.where(differs, centred, 0) / torch.where(differs, deviation, 1), differs


def any_around(padded: Tensor, size: int) -> Tensor:
    """Return whether any pixel in each square window of a padded 0/1 map is set; by rows, then columns, for speed.

    Example:
        >>> any_around(torch.tensor([3 * [[0.0, 0.0, 0.0, 1.0]]]), 3).tolist()
        [[[False, True]]]
    """
    return F.max_pool2d(F.max_pool2d(padded, (1, size), stride=1), (size, 1), stride=1) > 0


def high_frequencies(height: int, width: int, radius: float, device: torch.device) -> Tensor:
    """Return weights (H, W // 2 + 1), mean one, for the half spectrum of `rfft2` beyond a radius; zero within it.

    Example:
        >>> high_frequencies(8, 16, 0, torch.device("cpu")).shape
        torch.Size([8, 9])
    """
    rows = torch.fft.fftfreq(height, 1 / height, device=device)[:, None]
    columns = torch.fft.rfftfreq(width, 1 / width, device=device)
    # Every column but the first and the middle one also stands for its mirror image.
    multiplicity = torch.where((columns == 0) | (columns == width / 2), 1.0, 2.0)
    weight = torch.where(rows.square() + columns.square() > radius**2, multiplicity, 0)
    return weight / weight.mean().clamp(min=1e-12)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()
