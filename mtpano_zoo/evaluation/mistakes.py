"""Detection of predictions in another unit, frame or orientation than stated."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mtpano_zoo.evaluation.measures import frame_gain, log_ratio
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("common_mistakes", "mistakes")

# The factor by which distances are off, and the mistake in the unit that explains it.
UNITS = {
    1000.0: "millimetres",
    100.0: "centimetres",
    4000.0: "quarters of a millimetre",
    512.0: "steps of 1/512 m",
    0.001: "metres that were taken for millimetres",
    0.01: "metres that were taken for centimetres",
}
FACTOR = 20.0  # smaller factors may be the network's own error
Change = Callable[[Tensor], Tensor]
TURNS: dict[str, tuple[str, Change]] = {
    "mirrored": ("mirrored left to right", lambda x: x.flip(-1)),
    "upside down": ("upside down", lambda x: x.flip(-2)),
    "half a turn": ("turned by half a turn: their centre looks backwards", lambda x: x.roll(x.shape[-1] // 2, -1)),
    "quarter left": ("turned by a quarter to the left", lambda x: x.roll(x.shape[-1] // 4, -1)),
    "quarter right": ("turned by a quarter to the right", lambda x: x.roll(-(x.shape[-1] // 4), -1)),
}
LOOKS: dict[str, tuple[str, Change]] = TURNS | {
    "inverse": ("inverse distances: state --kind disparity", lambda x: torch.where(x > 0, 1 / x.clamp(min=1e-9), 0)),
    "z": ("z along the axes of a cube: state --kind z", lambda x: x / erp_rays(*x.shape).abs().amax(-1)),
    "ray": ("distances along the ray that were taken for z", lambda x: x * erp_rays(*x.shape).abs().amax(-1)),
}
WRONG = 0.05  # share of wrong classes above which turned maps are tried
PLAIN = 0.05  # mean |log ratio| above which other readings are tried
BETTER = 0.5  # share of the error that a better reading must stay below


def _spread(prediction: Tensor, target: Tensor) -> tuple[float, float]:
    """Return the median of the log ratio, and the mean absolute deviation from it."""
    ratio, known = log_ratio(prediction, target)
    inside = ratio[known].double()
    if not inside.numel():
        return 0.0, math.inf
    middle = inside.median()
    return float(middle), float((inside - middle).abs().mean())


def mistakes(prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a sentence for each kind of mistake in the maps of one image; none if nothing is suspicious.

    Example:
        >>> depth = 1 + torch.rand(16, 32)
        >>> mistakes({"depth": 1000 * depth}, {"depth": depth})["unit"]
        'distances are 1e+03 times those of the labels: they look like millimetres'
    """
    found: dict[str, str] = {}
    if "depth" in prediction and "depth" in target:
        p, t = prediction["depth"], target["depth"]
        middle, given = _spread(p, t)
        if abs(middle) > math.log(FACTOR) and given < math.inf:
            unit = min(UNITS, key=lambda factor: abs(math.log(factor) - middle))
            close = abs(math.log(unit) - middle) < math.log(2)
            found["unit"] = f"distances are {math.exp(middle):.3g} times those of the labels" + (
                f": they look like {UNITS[unit]}" if close else ": no known unit fits"
            )
        readings = {kind: _spread(change(p), t)[1] for kind, (_, change) in LOOKS.items()}
        best = min(readings, key=lambda kind: readings[kind])
        if PLAIN < given < math.inf and readings[best] < BETTER * given:
            found["reading"] = f"distances look {'like ' if best in ('inverse', 'z', 'ray') else ''}{LOOKS[best][0]}"
    if "semseg" in prediction and "semseg" in target:
        p, t = prediction["semseg"], target["semseg"]
        shares = {kind: float((change(p) != t)[t != NO_LABEL].double().mean()) for kind, (_, change) in TURNS.items()}
        wrong = float((p != t)[t != NO_LABEL].double().mean())
        best = min(shares, key=lambda kind: shares[kind])
        if wrong > WRONG and shares[best] < BETTER * wrong:
            found["classes"] = f"classes look {TURNS[best][0]}"
    if "normals" in prediction and "normals" in target:
        (gain, _), frame = frame_gain(prediction["normals"], target["normals"])
        if gain:
            found["frame"] = (
                f"normals look as if in another frame, which costs {gain:.0f} degrees: ours (x right, y down, z "
                f"forward, towards the camera) is theirs as ({_axes(frame)})"
            )
    return found


def _axes(frame: Tensor) -> str:
    names = [("-" if row.sum() < 0 else "") + "xyz"[int(row.abs().argmax())] for row in frame]
    return ", ".join(names)


def common_mistakes(found: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the first image's sentences about the kinds of mistake that all images show."""
    return [sentence for kind, sentence in found[0].items() if all(kind in other for other in found)] if found else []
