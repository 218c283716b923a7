"""Editing, compared with numbers of the published code and of an independent corrected implementation."""

import golden_dit360 as golden
import pytest
import torch
from golden_dit360 import filled
from tiny_flux import tiny_flux

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.editing import (
    consistent_edit,
    edit,
    invert,
    predictor,
    published_edit,
    replaced_tokens,
    sigmas_for,
    token_mask,
    walk_to_noise,
)
from mtpano_zoo.generation.tokens import pack, position_ids, wrap_columns

ROWS, COLUMNS = 4, 8
LATENTS = (1, 16, 8, 16)


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return golden.tensors("editing")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return golden.transformer().requires_grad_(False)


@pytest.fixture(scope="module")
def sigmas() -> torch.Tensor:
    return sigmas_for(golden.scheduler(), 6, ROWS * COLUMNS)


def padded_image() -> torch.Tensor:
    return wrap_columns(pack(filled("edit.image_latents", LATENTS)), COLUMNS, 1)


def source_predictor(network: torch.nn.Module):
    text, pooled = filled("edit.source_prompt_embeds", (1, 512, 32)), filled("edit.source_pooled", (1, 24))
    return predictor(network, text, pooled, wrap_columns(position_ids(ROWS, COLUMNS), COLUMNS, 1))


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    return filled("edit.prompt_embeds", (2, 512, 32)), filled("edit.pooled", (2, 24))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def test_levels_masks_and_padding(stored: dict[str, torch.Tensor], sigmas: torch.Tensor) -> None:
    torch.testing.assert_close(sigmas, stored["sigmas"], atol=1e-6, rtol=0)
    assert torch.equal(padded_image(), stored["image_latents_padded"])
    large = [sigmas_for(golden.scheduler(), 6, tokens) for tokens in (64 * 128, 128 * 256)]
    assert torch.equal(*large) and large[0][1] > sigmas[1]
    for name, wrap in (("mask_replicate", False), ("mask_circular", True)):
        assert torch.equal(token_mask(stored["in/mask"], COLUMNS, 1, wrap), stored[name])


def test_inversion(stored: dict[str, torch.Tensor], network: torch.nn.Module, sigmas: torch.Tensor) -> None:
    noise = filled("edit.inversion_noise_padded_tokens", (1, 40, 64))
    close(invert(None, padded_image(), noise, sigmas), stored["gamma1/inverted"])
    predict = source_predictor(network)
    close(invert(predict, padded_image(), noise, sigmas, 0.5), stored["gamma0.5/inverted"])
    close(walk_to_noise(predict, padded_image(), noise, sigmas, 0.5), stored["right/gamma0.5/inverted"])
    assert walk_to_noise(predict, padded_image(), noise, sigmas, 1.0) is noise


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("published", {}),
        ("circular_mask", {"wrap_mask": True}),
        ("inverse_mask", {}),
        ("tau0.8", {"replace_until": 0.8}),
        ("tau0.2", {"replace_until": 0.2}),
        ("gamma0.5_eta0.9_stop0.5", {"eta": 0.9, "stop": 0.5}),
        ("no_replacement", {"replacing": False}),
        ("no_overwrite", {"keep_until": 2.0}),
    ],
)
def test_published_editing(
    stored: dict[str, torch.Tensor],
    network: torch.nn.Module,
    sigmas: torch.Tensor,
    name: str,
    options: dict[str, float],
) -> None:
    keep = 1 - stored["in/mask"] if name == "inverse_mask" else stored["in/mask"]
    inverted = stored["gamma0.5/inverted" if "gamma0.5" in name else "gamma1/inverted"]
    latents, noise = filled("edit.image_latents", LATENTS), filled("edit.new_noise", LATENTS)
    found = published_edit(network, latents, inverted, noise, keep, *texts(), sigmas, **options)
    close(found, stored[f"{name}/final_packed"])


def test_consistent_editing(stored: dict[str, torch.Tensor], network: torch.nn.Module, sigmas: torch.Tensor) -> None:
    latents, new = filled("edit.image_latents", LATENTS), filled("edit.new_noise", LATENTS)
    noise = filled("edit.inversion_noise", LATENTS)
    found = consistent_edit(network, latents, noise, new, stored["in/mask"], *texts(), sigmas)
    close(found, stored["right/consistent/final_packed"])
    assert all(not module._forward_pre_hooks for module in network.modules())


def test_one_attention_layer(stored: dict[str, torch.Tensor], network: torch.nn.Module) -> None:
    hidden, context = filled("edit.attn_hidden", (2, 40, 48)), filled("edit.attn_enc", (2, 512, 48))
    ids = torch.cat([torch.zeros(512, 3), wrap_columns(position_ids(ROWS, COLUMNS), COLUMNS, 1)])
    inputs = {"hidden_states": hidden, "encoder_hidden_states": context, "image_rotary_emb": network.pos_embed(ids)}
    attention = network.transformer_blocks[0].attn
    with replaced_tokens(network, stored["mask_replicate"], 512):
        image, text = attention(**inputs)
    close(image, stored["attn/out_t0.9"])
    close(text[:, :8], stored["attn/context_out_t0.9_first8"])
    close(attention(**inputs)[0], stored["attn/out_t0.5_no_replacement"])


@pytest.mark.parametrize(("keep", "steps"), [(torch.ones(32, 64), 2), (torch.ones(32, 32).bool(), 2), (None, 0)])
def test_a_mask_or_steps_that_do_not_fit_are_refused_first(keep: torch.Tensor | None, steps: int) -> None:
    keep = torch.ones(32, 64, dtype=torch.bool) if keep is None else keep
    with pytest.raises(InputError, match="steps must be" if steps == 0 else "keep must be a boolean mask"):
        edit(tiny_flux(), torch.rand(3, 32, 64), keep, "a room", steps=steps)
