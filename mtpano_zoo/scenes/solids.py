"""Intersect solids with single rays, where the tables of `casting` do not apply: slanted faces and tilted cameras.

Every solid is an intersection of parts: slabs between two planes, quadrics, and half-spaces. A ray is inside a part
from `enter` to `leave`, and inside the solid from the last entry to the first exit; the part that is entered last
determines the normal. Everything is in the frame of the primitive, y down.
"""

import torch
from torch import Tensor

from mtpano_zoo.scenes.scene import BOX, CABIN, CONE, CYLINDER, ELLIPSOID, GABLE, HIP, SPHERE, WHEEL

__all__ = ("KINDS", "NEVER", "Vector", "hit", "interval")

KINDS = (BOX, CYLINDER, SPHERE, ELLIPSOID, CONE, WHEEL, GABLE, HIP, CABIN)
NEVER = 1e9  # metres; finite, because infinity minus infinity is not a number

Vector = tuple[Tensor, Tensor, Tensor]
Part = tuple[Tensor, Tensor]

_SLABS: dict[int, tuple[int, ...]] = {
    BOX: (0, 1, 2),
    CYLINDER: (1,),
    SPHERE: (),
    ELLIPSOID: (),
    CONE: (1,),
    WHEEL: (0,),
    GABLE: (1,),
    HIP: (1,),
    CABIN: (1,),
}
_ROUND: dict[int, tuple[int, ...]] = {CYLINDER: (0, 2), SPHERE: (0, 1, 2), ELLIPSOID: (0, 1, 2), WHEEL: (1, 2)}
# How long and how deep the top of a leaning solid is, as shares of its bottom.
_TOP: dict[int, tuple[float, float]] = {GABLE: (1.0, 0.0), HIP: (0.5, 0.0), CABIN: (0.8, 0.6)}
_SIDES = ((0, 1.0), (0, -1.0), (2, 1.0), (2, -1.0))


def interval(kind: int, o: Vector, d: Vector, lower: Vector, upper: Vector) -> Part:
    """Return where rays from `o` along `d` enter and leave a solid in its bounds; a miss enters after it leaves."""
    parts = _parts(kind, o, d, lower, upper)
    enter, leave = parts[0]
    for later, sooner in parts[1:]:
        enter, leave = torch.maximum(enter, later), torch.minimum(leave, sooner)
    return enter, leave


def hit(kind: int, o: Vector, d: Vector, lower: Vector, upper: Vector) -> tuple[Tensor, Vector]:
    """Return distance and normal for rays (N,) that are known to meet the solid."""
    enters = torch.stack([enter for enter, _ in _parts(kind, o, d, lower, upper)])
    distance, part = enters.max(0)
    x, y, z = (a + distance * b for a, b in zip(o, d, strict=True))
    normal = [torch.zeros_like(distance) for _ in range(3)]
    for number, axis in enumerate(_SLABS[kind]):
        normal[axis] = torch.where(part == number, -d[axis].sign(), normal[axis])
    rest = part >= len(_SLABS[kind])
    middle = [(a + b) / 2 for a, b in zip(lower, upper, strict=True)]
    half = [(b - a) / 2 for a, b in zip(lower, upper, strict=True)]
    zero = torch.zeros_like(distance)
    if kind in _ROUND:
        place = (x, y, z)
        slope = [(place[a] - middle[a]) / half[a] ** 2 if a in _ROUND[kind] else zero for a in range(3)]
    elif kind == CONE:
        ratio = (half[0] / (upper[1] - lower[1])) ** 2
        slope = [x, -ratio * (y - lower[1]), z]
    elif kind in _TOP:
        rise, slope = upper[1] - lower[1], [zero, zero, zero]
        for number, (axis, side) in enumerate(_SIDES, start=1):
            lean = half[axis] * (1 - _TOP[kind][axis // 2])
            met = part == number
            slope[axis] = torch.where(met, side * rise, slope[axis])
            slope[1] = torch.where(met, -lean, slope[1])
    else:
        slope = [zero, zero, zero]
    length = (slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2).sqrt().clamp(min=1e-30)
    x, y, z = (torch.where(rest, s / length, n) for s, n in zip(slope, normal, strict=True))
    return distance, (x, y, z)


def _parts(kind: int, o: Vector, d: Vector, lower: Vector, upper: Vector) -> list[Part]:
    parts = [_slab(o[a], d[a], lower[a], upper[a]) for a in _SLABS[kind]]
    if kind in _ROUND:
        parts.append(_quadric(_ROUND[kind], o, d, lower, upper))
    elif kind == CONE:
        parts.append(_cone(o, d, lower, upper))
    elif kind in _TOP:
        rise = upper[1] - lower[1]
        for axis, side in _SIDES:
            middle, half = (lower[axis] + upper[axis]) / 2, (upper[axis] - lower[axis]) / 2
            lean = half * (1 - _TOP[kind][axis // 2])
            # side (x - middle) rise + (bottom - y) lean <= half rise
            start = side * (o[axis] - middle) * rise + (upper[1] - o[1]) * lean - half * rise
            speed = side * d[axis] * rise - d[1] * lean + 1e-20
            when = (-start / speed).clamp(-NEVER, NEVER)
            inward = speed < 0
            parts.append((torch.where(inward, when, -NEVER), torch.where(inward, NEVER, when)))
    return parts


def _slab(o: Tensor, d: Tensor, lower: Tensor, upper: Tensor) -> Part:
    # A ray within the plane would divide 0 by 0.
    speed = d + 1e-20
    one, other = (lower - o) / speed, (upper - o) / speed
    return torch.minimum(one, other), torch.maximum(one, other)


def _quadric(axes: tuple[int, ...], o: Vector, d: Vector, lower: Vector, upper: Vector) -> Part:
    """Intersect a sphere or a cylinder, stretched to its bounds along the axes."""
    half = [(upper[a] - lower[a]) / 2 for a in axes]
    place = [(o[a] - (lower[a] + upper[a]) / 2) / h for a, h in zip(axes, half, strict=True)]
    speed = [d[a] / h for a, h in zip(axes, half, strict=True)]
    square = sum((s * s for s in speed[1:]), speed[0] * speed[0]) + 1e-20
    middle = -sum((p * s for p, s in zip(place[1:], speed[1:], strict=True)), place[0] * speed[0]) / square
    # The distance of the nearest point, squared: b^2 - 4ac would cancel for small things far away.
    nearest = [p + middle * s for p, s in zip(place, speed, strict=True)]
    room = 1 - sum((n * n for n in nearest[1:]), nearest[0] * nearest[0])
    reach = (room.clamp(min=0) / square).sqrt()
    missed = room <= 0
    return (middle - reach).masked_fill(missed, NEVER), (middle + reach).masked_fill(missed, -NEVER)


def _cone(o: Vector, d: Vector, lower: Vector, upper: Vector) -> Part:
    """Intersect an endless cone that opens downwards from its tip in the middle of the top; the height slab cuts it."""
    ratio = (upper[0] / (upper[1] - lower[1])) ** 2
    height = o[1] - lower[1]
    a = d[0] * d[0] + d[2] * d[2] - ratio * d[1] * d[1]
    a = torch.where(a.abs() < 1e-12, 1e-12, a)
    b = o[0] * d[0] + o[2] * d[2] - ratio * height * d[1]
    c = o[0] * o[0] + o[2] * o[2] - ratio * height * height
    root = (b * b - a * c).clamp(min=0).sqrt()
    missed = (b * b <= a * c) & (a > 0)
    one, other = (-b - root) / a, (-b + root) / a
    first, last = torch.minimum(one, other), torch.maximum(one, other)
    # A ray steeper than the cone stays inside it: downwards from the last root on, upwards until the first.
    steep, down = a < 0, d[1] > 0
    enter = torch.where(steep, torch.where(down, last, -NEVER), first).masked_fill(missed, NEVER)
    leave = torch.where(steep, torch.where(down, NEVER, first), last).masked_fill(missed, -NEVER)
    return enter, leave
