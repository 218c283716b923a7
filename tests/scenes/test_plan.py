import math

import numpy as np
import pytest

from mtpano_zoo.scenes.plan import Plan, Rect, sample_plan
from mtpano_zoo.scenes.scene import Frame


def sampled(count):
    return [sample_plan(np.random.default_rng(seed)) for seed in range(count)]


def test_all_four_shapes_occur():
    plans = sampled(200)
    assert {len(plan.walls) for plan in plans} == {4, 6, 8}
    touching = {
        sum(int(a == b) for c in p.cuts for a, b in zip(c, (0.0, p.width, 0.0, p.depth), strict=True)) for p in plans
    }
    assert touching == {0, 1, 2, 4}  # box, U, L, T


def test_walls_go_round_the_plan():
    """A closed outline: the walls' normals times lengths sum to zero, and the area inside is that of the plan."""
    for plan in sampled(50):
        total, doubled = np.zeros(2), 0.0
        for wall in plan.walls:
            normal = np.array([math.sin(wall.frame.yaw), math.cos(wall.frame.yaw)])
            total += normal * wall.length
            doubled -= wall.length * (np.array(wall.frame[:2]) @ normal)
        area = plan.width * plan.depth - sum((c.x1 - c.x0) * (c.z1 - c.z0) for c in plan.cuts)
        assert np.abs(total).max() < 1e-9
        assert doubled / 2 == pytest.approx(area)


def test_walls_face_the_room():
    for plan in sampled(50):
        for wall in plan.walls:
            inside, outside = wall.frame.at(wall.length / 2, 0.05), wall.frame.at(wall.length / 2, -0.05)
            assert plan.contains(inside.x, inside.z) and not plan.contains(outside.x, outside.z)


def test_floor_is_given_away_once():
    plan = Plan(4.0, 3.0, [Rect(0.0, 1.0, 0.0, 1.0)])
    assert plan.free_area() == pytest.approx(11.0)
    assert not plan.occupy(Frame(0.6, 0.6, 0.0), 0.5, 0.5)  # in the cut
    assert not plan.occupy(Frame(3.9, 2.0, 0.0), 0.5, 0.5)  # through the wall
    assert plan.occupy(Frame(2.5, 1.5, 0.4), 1.0, 0.6)
    assert not plan.occupy(Frame(2.7, 1.5, 1.0), 0.5, 0.5)
    assert plan.occupy(Frame(3.6, 2.6, 0.0), 0.5, 0.5)
    plan.block_disc(0.5, 2.5, 0.4)
    assert not plan.occupy(Frame(0.5, 2.5, 0.0), 0.3, 0.3)


def test_occupancy_is_dark_outside_and_light_in_the_open():
    plan = Plan(6.0, 5.0, [])
    walls, things = plan.occupancy()
    cell = lambda metres: round((metres + 0.6) / 0.1)  # noqa: E731
    assert walls[cell(2.5), cell(3.0)] == 0 and walls[cell(6.0), cell(3.0)] == 1
    assert 0.3 < walls[cell(2.5), cell(0.0)] < 0.6 < walls[cell(0.0), cell(0.0)]
    assert things.max() == 0


def test_frames_compose():
    frame = Frame(1.0, 2.0, math.pi / 2)
    moved = frame.at(0.5, 2.0, 0.25)
    assert (moved.x, moved.z, moved.yaw) == (3.0, 1.5, math.pi / 2 + 0.25)
