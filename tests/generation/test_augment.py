"""Augmentation, compared with the published code on images and masks, and with an independent float64 projection."""

import json

import golden_dit360 as golden
import numpy as np
import pytest
import torch
from golden_dit360 import filled
from PIL import Image

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.augment import draw_turn, latent_mask, place_photo, prepare_panorama

VIEWS = {0: (0, 0, 90), 3: (-135, 20, 60), 4: (30, -35, 100)}


@pytest.mark.parametrize(
    "case", json.loads((golden.FOLDER / "augment.json").read_text()), ids=lambda case: case["name"]
)
def test_preparation(case: dict[str, object]) -> None:
    stored = golden.tensors("augment")
    found = prepare_panorama(stored["in/image_u8"].numpy(), 16, mirror=case["flipped"], turn=case["shift_to_the_right"])
    torch.testing.assert_close(2 * found - 1, stored[case["name"]], atol=1e-6, rtol=0)


def test_sharp_edges_stay_in_range() -> None:
    """Bicubic interpolation overshoots at an edge, but bytes saturate, so nothing has to be clamped."""
    edge = np.zeros((32, 64, 3), np.uint8)
    edge[:, 20:40] = 255
    exact = np.array(Image.fromarray(edge[..., 0].astype(np.float32)).resize((128, 64), Image.Resampling.BICUBIC))
    assert exact.min() < -5 and exact.max() > 260
    found = prepare_panorama(edge, 64)
    torch.testing.assert_close(found[0].numpy(), exact.clip(0, 255) / 255, atol=0.51 / 255, rtol=0)
    assert found.min() == 0 and found.max() == 1


def test_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {draw_turn(8, generator=generator) for _ in range(200)} == set(range(8))
    assert {draw_turn(9, "published", generator) for _ in range(200)} == set(range(3, 10))
    with pytest.raises(InputError, match="turns must be one of"):
        draw_turn(8, "all")


@pytest.mark.parametrize("case", VIEWS)
def test_photographs(case: int) -> None:
    stored = golden.tensors("geometry")
    yaw, pitch, fov = VIEWS[case]
    photo = filled("geo.photo", (1, 24, 24), a=0.5, b=0.5)
    found, mask = place_photo(photo, sphere.rotation_matrix(yaw=yaw, pitch=pitch), fov, 64)
    torch.testing.assert_close(found, stored[f"persp/{case}/erp"], atol=1e-5, rtol=0)
    assert torch.equal(mask, stored[f"persp/{case}/mask"].bool())
    for rule in ("all", "any", "nearest", "published"):
        assert torch.equal(latent_mask(mask, 8, rule), stored[f"persp/{case}/latent_mask_{rule}"].bool()), rule


def test_resized_mask() -> None:
    stored = golden.tensors("training")
    mask = stored["mask_resize/image_u8"] > 127
    assert torch.equal(latent_mask(mask, 8, "nearest"), stored["mask_resize/right"].bool())
    assert torch.equal(latent_mask(mask, 8, "published"), stored["mask_resize/published_as_used"].bool())


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        latent_mask(torch.ones(12, 24), 8)
    with pytest.raises(InputError, match="mask rule must be one of"):
        latent_mask(torch.ones(8, 16), 8, "some")
