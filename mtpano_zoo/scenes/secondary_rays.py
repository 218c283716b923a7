"""Show what mirrors reflect and what is behind glass, by secondary rays that start there.

There is one bounce: a mirror that a secondary ray meets is plain grey. Secondary rays ignore glass, so only the first
pane is seen. Classes, distances and normals stay those of the mirror or the pane.
"""

from typing import cast

import torch
from torch import Tensor

from mtpano_zoo.scenes.batching import Primitives, Views
from mtpano_zoo.scenes.lighting import Shadows, radiance
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.shading import Planes, Surface, take, to_level, to_room
from mtpano_zoo.scenes.tracing import FAR, TILE, Rays, details, touched_by_cones, trace

__all__ = ("mix_secondary_rays",)

_OFF = 1e-5  # metres from the surface, where the secondary rays start


def mix_secondary_rays(
    light: list[Tensor], primitives: Primitives, seen: Surface, views: Views, shadows: Shadows, room: int, first: int
) -> None:
    """Mix the light of what mirrors and glass of a room show into its image; in place.

    A material may have both: `glass` is then the share that passes, and `mirror` the reflected share of the rest.

    Args:
        light: Linear RGB, three times (B, rows, W).
        primitives: Primitives of all rooms.
        seen: What is seen in the rows of B rooms.
        views: Views of all rooms.
        shadows: Shadows of all rooms.
        room: Index of the room.
        first: Index of the first of the B rooms.
    """
    shares = {}
    for field in ("mirror", "glass"):
        share = take(primitives.material[CHANNEL[field]], seen.primitive[room - first]).flatten()
        if seen.sky is not None:
            share = share.masked_fill(seen.sky[room - first].flatten(), 0.0)
        if len(at := share.nonzero()[:, 0]):
            shares[field] = share, at
    if not shares:
        return
    own = primitives.select((primitives.room == room) & (primitives.material[CHANNEL["glass"]] == 0))
    own.room = torch.zeros_like(own.room)
    view, shadow = views.slice(room, room + 1), shadows.slice(room, room + 1)
    for field, (share, at) in shares.items():
        other = radiance(own, _second(own, seen, view, room - first, at, field == "mirror"), view, shadow)
        for plane, values in zip(light, other, strict=True):
            flat = plane[room - first].view(-1)
            flat.index_copy_(0, at, torch.lerp(take(flat, at), values.flatten(), take(share, at)))


def _second(own: Primitives, seen: Surface, view: Views, room: int, at: Tensor, reflected: bool) -> Surface:
    """Return what the rays of some pixels meet after a mirror, or straight on, (1, 1, N)."""

    def rows(planes: Planes) -> Tensor:
        return torch.stack([take(plane[room], at) for plane in planes], dim=1).double()

    point, normal, turn = rows(seen.point), rows(seen.normal), view.turn
    before = point.norm(dim=1)
    sight = point / before[:, None]
    level = sight - 2 * (sight * normal).sum(1, keepdim=True) * normal if reflected else sight
    off = _OFF * (normal if reflected else sight)
    start, direction = view.camera + to_room(point + off, turn), to_room(level, turn)
    rays = Rays(_in_tiles(start), _in_tiles(direction))
    distance, winner = (values.view(-1)[: len(at)] for values in trace(own, rays, touched_by_cones(own, rays)))

    missed = distance >= FAR
    met = (~missed).nonzero()[:, 0]
    primitive = winner.long()
    t, facing, u, v = details(own, primitive[met], start[met], direction[met])

    def plane(values: Tensor, empty: float) -> Tensor:
        full = torch.full((len(at),), empty, device=at.device)
        return full.index_copy_(0, met, values.float()).view(1, 1, -1)

    after, length = plane(t, FAR), before.float().view(1, 1, -1)
    place = [p.float() + after * d.float() for p, d in zip(point.unbind(1), level.unbind(1), strict=True)]
    return Surface(
        primitive.view(1, 1, -1),
        cast(Planes, tuple(place)),
        cast(Planes, tuple(plane(n, 0.0) for n in to_level(facing, turn).unbind(1))),
        after + length,
        plane(facing[:, 1].abs() >= 0.9, 0.0),
        plane(u, 0.0),
        plane(v, 0.0),
        seen.angle,
        missed.view(1, 1, -1) if bool((view.sky != 0).any()) else None,
        cast(Planes, tuple((after + length) * d.float() for d in level.unbind(1))),
    )


def _in_tiles(vectors: Tensor) -> Tensor:
    """Reshape vectors (N, 3) to (1, tiles, 3, TILE^2), repeating the last one."""
    more = vectors[-1:].expand(-len(vectors) % TILE**2, -1)
    return torch.cat((vectors, more)).view(1, -1, TILE**2, 3).transpose(2, 3)
