"""Show what mirrors reflect: each pixel that sees one casts a second ray and takes the light of what that meets.

There is one bounce: a mirror that is seen in a mirror is plain grey. Classes, distances and normals stay those of the
glass.
"""

from typing import cast

import torch
from torch import Tensor

from mtpano_zoo.scenes.batching import Primitives, Views
from mtpano_zoo.scenes.lighting import Shadows, radiance
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.shading import Planes, Surface, take, to_level, to_room
from mtpano_zoo.scenes.tracing import FAR, TILE, Rays, details, touched_by_cones, trace

_OFF = 1e-5  # metres in front of the glass, where the second rays start


def reflect(
    light: list[Tensor], primitives: Primitives, seen: Surface, views: Views, shadows: Shadows, room: int, first: int
) -> None:
    """Mix the light of what the mirrors of a room show into its image; in place.

    Args:
        light: Linear RGB, three times (B, rows, W).
        primitives: Primitives of all rooms.
        seen: What is seen in the rows of B rooms.
        views: Views of all rooms.
        shadows: Shadows of all rooms.
        room: Index of the room.
        first: Index of the first of the B rooms.
    """
    share = take(primitives.material[CHANNEL["mirror"]], seen.primitive[room - first]).flatten()
    at = share.nonzero()[:, 0]
    if len(at) == 0:
        return
    own = primitives.select(primitives.room == room)
    own.room = torch.zeros_like(own.room)
    view = views.slice(room, room + 1)
    reflected = radiance(own, _second(own, seen, view, room - first, at), view, shadows.slice(room, room + 1))
    for plane, other in zip(light, reflected, strict=True):
        flat = plane[room - first].view(-1)
        flat.index_copy_(0, at, torch.lerp(take(flat, at), other.flatten(), take(share, at)))


def _second(own: Primitives, seen: Surface, view: Views, room: int, at: Tensor) -> Surface:
    """Return what the rays of some pixels meet after the mirror, (1, 1, N)."""

    def rows(planes: Planes) -> Tensor:
        return torch.stack([take(plane[room], at) for plane in planes], dim=1).double()

    point, normal, turn = rows(seen.point), rows(seen.normal), view.turn
    before = point.norm(dim=1)
    sight = point / before[:, None]
    level = sight - 2 * (sight * normal).sum(1, keepdim=True) * normal
    start, direction = view.camera + to_room(point + _OFF * normal, turn), to_room(level, turn)
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
