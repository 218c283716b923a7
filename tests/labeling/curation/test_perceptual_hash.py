"""Hashes of panoramas: turning the camera does not change them, and near ones are those that brute force finds."""

import random

import pytest
import torch

from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.labeling.curation.perceptual_hash import BITS, different, perceptual_hash


def bits_apart(a, b):
    return (a ^ b).bit_count()


@pytest.fixture(scope="module")
def rooms():
    rooms = RoomsDataset("test", 8, 32, 64)
    return [rooms[i]["image"] for i in range(8)]


def test_the_same_scene_is_near_and_others_are_far(rooms):
    hashes = [perceptual_hash(image) for image in rooms]
    for image, known in zip(rooms, hashes, strict=True):
        assert perceptual_hash(image.roll(19, -1)) == known
        assert bits_apart(perceptual_hash(0.6 * image), known) <= 2
        noise = 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        assert bits_apart(perceptual_hash((image + noise).clamp(0, 1)), known) <= 4
    apart = [bits_apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 8


def test_half_of_the_bits_are_set(rooms):
    assert {perceptual_hash(image).bit_count() for image in rooms} <= set(range(BITS // 2 - 2, BITS // 2 + 1))


@pytest.mark.parametrize("distance", [0, 1, 4, 16])
def test_near_hashes_are_those_of_brute_force(distance):
    rng = random.Random(distance)
    hashes = [rng.getrandbits(BITS) for _ in range(40)]
    for _ in range(160):  # others with a few bits changed
        changed = rng.choice(hashes)
        for _ in range(rng.randrange(2 * distance + 2)):
            changed ^= 1 << rng.randrange(BITS)
        hashes.append(changed)
    kept = []
    for i, one in enumerate(hashes):
        if all(bits_apart(one, hashes[j]) > distance for j in kept):
            kept.append(i)
    assert list(different(hashes, distance)) == kept
    assert 0 < len(kept) < len(hashes)
