"""Sampling, compared with numbers of the published code, and with properties that must hold."""

import json

import golden_dit360 as golden
import numpy as np
import pytest
import torch
from golden_dit360 import filled

from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.generation.schedule import draw_levels, level_weight, shift_for, with_length
from mtpano_zoo.generation.seams import Seam, wrapped_autoencoder, wrapped_transformer
from mtpano_zoo.generation.tokens import crop_columns, pack, position_ids, unpack, wrap_columns

ROWS, COLUMNS = 4, 8

# Time and guidance are embedded in float32, even in a network of float64. The exponential of the frequencies differs
# between processors in its last bit, which is 6e-5 of an angle of 1000 and 2e-4 of one of 2800. On an AMD EPYC, like
# the machine of the golden numbers, errors are below 1e-7 and 2.1e-5; on an Intel Xeon with AVX-512, 1.4e-5 and 4.1e-5.
TIMED, GUIDED = 3e-5, 1e-4


@pytest.fixture(scope="module")
def tokens() -> dict[str, torch.Tensor]:
    return golden.tensors("tokens")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return golden.transformer().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(golden.pipeline())


def call(network: torch.nn.Module, packed: torch.Tensor, guidance: float, dtype: torch.dtype = torch.float32):
    inputs = {
        "hidden_states": packed,
        "encoder_hidden_states": filled("input.prompt_embeds", (2, 12, 32)),
        "pooled_projections": filled("input.pooled_prompt_embeds", (2, 24)),
        "timestep": golden.tensors("tokens")["in/timestep"],
        "guidance": torch.full((2,), guidance),
    }
    ids = {"img_ids": position_ids(ROWS, COLUMNS), "txt_ids": torch.zeros(12, 3)}
    inputs = {name: value.to(dtype) for name, value in inputs.items()}
    return network(**inputs, **ids, return_dict=False)[0]


def test_tokens_and_positions(tokens: dict[str, torch.Tensor]) -> None:
    latents = filled("input.latents", (2, 16, 8, 16))
    packed = pack(latents)
    assert torch.equal(packed, tokens["packed"])
    assert torch.equal(unpack(packed, ROWS, COLUMNS), latents)
    for padding in (1, 2):
        wrapped = wrap_columns(packed, COLUMNS, padding)
        assert torch.equal(wrap_columns(position_ids(ROWS, COLUMNS), COLUMNS, padding), tokens[f"pad{padding}/ids"])
        assert torch.equal(crop_columns(wrapped, COLUMNS, padding), packed)
    assert torch.equal(wrapped, tokens["pad2/tokens"])
    assert torch.equal(position_ids(ROWS, COLUMNS, padding=1), tokens["continued_ids/pad1/ids"])


@pytest.mark.parametrize(("padding", "guidance"), [(0, 1.0), (0, 2.8), (1, 1.0), (1, 2.8), (2, 1.0)])
def test_transformer_with_the_published_seam(
    tokens: dict[str, torch.Tensor], network: torch.nn.Module, padding: int, guidance: float
) -> None:
    seam: Seam = "published" if padding else "none"
    with wrapped_transformer(network, seam, ROWS, COLUMNS, padding=padding):
        found = call(network, tokens["packed"], guidance)
    expected = tokens[f"pad{padding}/g{guidance}/tokens_out" if guidance > 1 else f"pad{padding}/g1.0/tokens_out64"]
    torch.testing.assert_close(found.double(), expected.double(), atol=GUIDED if guidance > 1 else 2.1e-5, rtol=0)
    assert not network._forward_hooks and not network._forward_pre_hooks


@pytest.mark.parametrize(("seam", "name"), [("published", "pad1"), ("continued", "continued_ids/pad1")])
def test_transformer_in_double_precision(tokens: dict[str, torch.Tensor], seam: Seam, name: str) -> None:
    network = golden.transformer().double()
    with wrapped_transformer(network, seam, ROWS, COLUMNS):
        found = call(network, tokens["packed"].double(), 1.0, torch.float64)
    torch.testing.assert_close(found, tokens[f"{name}/g1.0/tokens_out64"], atol=TIMED, rtol=0)


def test_roll_is_a_turn_before_and_back_after(tokens: dict[str, torch.Tensor], network: torch.nn.Module) -> None:
    latents = filled("input.latents", (2, 16, 8, 16))
    turns = [int(torch.randint(COLUMNS, (), generator=torch.Generator().manual_seed(seed))) for seed in range(3)]
    assert len(set(turns)) > 1
    for seed, turn in enumerate(turns):
        with wrapped_transformer(network, "roll", ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)):
            found = unpack(call(network, pack(latents), 2.8), ROWS, COLUMNS)
        by_hand = unpack(call(network, pack(latents.roll(2 * turn, -1)), 2.8), ROWS, COLUMNS).roll(-2 * turn, -1)
        torch.testing.assert_close(found, by_hand, atol=0, rtol=0)


def test_positions_are_whole_numbers_in_bfloat16(network: torch.nn.Module) -> None:
    """Columns 256 and 257 round to the same number in bfloat16."""
    seen = []
    handle = network.pos_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ids = torch.zeros(300, 3, dtype=torch.bfloat16)
    inputs = {"hidden_states": torch.zeros(1, 300, 64), "encoder_hidden_states": torch.zeros(1, 2, 32)}
    scalars = {"pooled_projections": torch.zeros(1, 24), "timestep": torch.ones(1), "guidance": torch.ones(1)}
    with wrapped_transformer(network, "none", 1, 300):
        network(**inputs, **scalars, img_ids=ids, txt_ids=torch.zeros(2, 3, dtype=torch.bfloat16))
    handle.remove()
    assert seen[0].dtype == torch.float32
    assert seen[0][2:, 2].tolist() == list(range(300))


def test_autoencoder(tokens: dict[str, torch.Tensor], generator: Generator) -> None:
    image = filled("input.image", (1, 3, 32, 64), b=1.0) / 2 + 0.5
    latents = generator.encode(image, wrap=False)
    torch.testing.assert_close(latents, tokens["vae/latents_from_mean"], atol=1e-4, rtol=0)
    spread = generator.pipeline.vae.encode(2 * image - 1).latent_dist
    torch.testing.assert_close(spread.logvar, tokens["vae/logvar"], atol=1e-4, rtol=0)
    for name, options in (("decoded", {"wrap": False}), ("decoded_wrapped2", {"tiled_border": 2})):
        expected = (tokens[f"vae/{name}"] / 2 + 0.5).clamp(0, 1)
        found = generator.decode(tokens["vae/latents_from_mean"], **options)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_autoencoder_has_no_seam(generator: Generator) -> None:
    """Turning the panorama turns what is encoded and decoded, and nothing else; without the wrap it does not."""
    image = filled("seam", (1, 3, 32, 64), a=0.5, b=0.5)
    for wrap in (True, False):
        latents = generator.encode(image, wrap=wrap)
        turned = generator.encode(image.roll(24, -1), wrap=wrap)
        encodes_alike = torch.allclose(turned, latents.roll(3, -1), atol=1e-5)
        pictures = generator.decode(latents, wrap=wrap), generator.decode(latents.roll(3, -1), wrap=wrap)
        decodes_alike = torch.allclose(pictures[1], pictures[0].roll(24, -1), atol=1e-5)
        assert encodes_alike is decodes_alike is wrap
    assert all(not layer._forward_hooks for layer in generator.pipeline.vae.modules())


def test_hooks_are_gone_after_an_error(generator: Generator) -> None:
    with pytest.raises(RuntimeError), wrapped_autoencoder(generator.pipeline.vae):
        raise RuntimeError
    assert all(not layer._forward_pre_hooks for layer in generator.pipeline.vae.modules())


@pytest.mark.parametrize(
    ("expected", "seam", "length"),
    [
        ("final_packed", "published", None),
        ("unpadded_mu/final_packed", "published", "unpadded"),
        ("nopad/final_packed", "none", None),
    ],
)
def test_whole_run(generator: Generator, expected: str, seam: Seam, length: str | None) -> None:
    stored = golden.tensors("sampling")
    noise = filled("sample.noise", (1, 16, 16, 32))
    embeddings = filled("sample.prompt_embeds", (1, 12, 32)), filled("sample.pooled_prompt_embeds", (1, 24))
    latents = generator.sample(None, noise, steps=4, seam=seam, length=length, embeddings=embeddings)
    torch.testing.assert_close(pack(latents), stored[expected], atol=2e-4, rtol=0)
    if expected == "final_packed":
        image = (generator.decode(latents, wrap=False)[0] * 255).round().permute(1, 2, 0)
        assert (image - stored["image_u8"].float()).abs().max() <= 2


def test_noise_levels() -> None:
    for name, table in json.loads((golden.FOLDER / "schedules.json").read_text()).items():
        height, width = (int(side) for side in name.split()[0].split("x"))
        rows, columns, padding = height // 16, width // 16, int(name[-1]) if "pad " in name else 0
        assert shift_for((columns + 2 * padding) * rows, golden.SCHEDULER) == pytest.approx(table["mu"])
        if height > 1024:
            continue
        scheduler = with_length(golden.scheduler(), rows, columns, padding)
        mu = shift_for(rows * columns, scheduler.config)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28), mu=mu)
        np.testing.assert_allclose(scheduler.sigmas, table["sigmas"], atol=1e-6)


def test_noise_levels_stay_above_the_trained_size() -> None:
    scheduler = with_length(golden.scheduler(), 128, 256)
    assert shift_for(128 * 256, scheduler.config) == pytest.approx(shift_for(8192, golden.SCHEDULER))
    padded = with_length(golden.scheduler(), 128, 256, 1)
    assert shift_for(128 * 256, padded.config) == pytest.approx(shift_for(8320, golden.SCHEDULER))


def test_levels_and_weights_of_training() -> None:
    tables = json.loads((golden.FOLDER / "training.json").read_text())["timestep_sampling"]
    for uniform, _, _, sigma in tables["u -> index -> timestep -> sigma"]:
        assert draw_levels(1, uniform=torch.tensor([uniform])).item() == pytest.approx(sigma)
    for density, key in (
        ("logit_normal", "logit_normal: z -> u (mean 0, std 1)"),
        ("mode", "mode: r -> u (scale 1.29)"),
    ):
        for drawn, uniform in tables[key]:
            found = draw_levels(1, density, uniform=torch.tensor([drawn])).item()
            assert found == pytest.approx((1000 - int(1000 * uniform)) / 1000, abs=1.01e-3)
    for weighting, rows in tables["loss weight by sigma"].items():
        for sigma, weight in rows:
            assert level_weight(torch.tensor(sigma), weighting).item() == pytest.approx(weight, rel=1e-5)
