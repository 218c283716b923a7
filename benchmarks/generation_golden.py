"""Largest differences from the tensors and losses of the published DiT360 code, file by file.

The numbers were computed once with the published code and with weights that follow from a rule. The folder has more of
them than the tests use. Run: ``python benchmarks/generation_golden.py FOLDER``.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))
import golden_dit360 as golden
from golden_dit360 import filled

from mtpano_zoo import sphere
from mtpano_zoo.generation import editing
from mtpano_zoo.generation.adapters import load_adapter
from mtpano_zoo.generation.augment import latent_mask, place_photo, prepare_panorama
from mtpano_zoo.generation.losses import FlowLoss, dit360_cube, published_yaw
from mtpano_zoo.generation.polar import hole_of_face, hole_of_panorama, polar_faces, refine
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.generation.schedule import draw_levels
from mtpano_zoo.generation.seams import wrapped_transformer
from mtpano_zoo.generation.tokens import pack, position_ids, unpack, wrap_columns

Stored = dict[str, Tensor]
Found = Iterator[tuple[str, Tensor]]
PLAIN: dict[str, Any] = {"cube": 0.5, "yaw": 0.5, "cube_sampling": "published", "first_epoch": 2}
MIXED: dict[str, Any] = {"cube": 0.5, "yaw": 0.5, "cube_sampling": "published", "epochs": 3, "masking": "published"}
TOLERANCES = {  # relative for losses
    "tokens": 2.1e-5,
    "training": 3e-5,
    "training, losses": 1e-5,
    "sampling": 2e-4,
    "editing": 5e-5,
    "lora": 5e-5,
    "geometry": 1e-5,
    "augment": 1e-6,
}


def generator() -> Generator:
    """Return the generator whose numbers are stored."""
    return Generator(golden.pipeline())


def call(network: Any, stored: Stored, guidance: float, dtype: torch.dtype) -> Tensor:
    """Return the output of a transformer for the stored tokens."""
    inputs = {
        "hidden_states": stored["packed"],
        "encoder_hidden_states": stored["in/prompt_embeds"],
        "pooled_projections": stored["in/pooled_prompt_embeds"],
        "timestep": stored["in/timestep"],
        "guidance": torch.full((2,), guidance),
    }
    inputs = {name: value.to(dtype) for name, value in inputs.items()}
    out: Tensor = network(**inputs, img_ids=position_ids(4, 8), txt_ids=torch.zeros(12, 3), return_dict=False)[0]
    return out


def tokens(stored: Stored, folder: Path) -> Found:
    """Yield tokens, positions, velocities for each padding, and outputs of the autoencoder."""
    network, double = golden.transformer(), golden.transformer().double()
    yield "packed", pack(stored["in/latents"])
    yield "ids", position_ids(4, 8)
    yield "continued_ids/pad1/ids", position_ids(4, 8, padding=1)
    for padding in (0, 1, 2):
        yield f"pad{padding}/tokens", wrap_columns(stored["packed"], 8, padding)
        yield f"pad{padding}/ids", wrap_columns(position_ids(4, 8), 8, padding)
        with wrapped_transformer(network, "published", 4, 8, padding=padding):
            for guidance in (1.0, 2.8):
                found = call(network, stored, guidance, torch.float32)
                yield f"pad{padding}/g{guidance}/tokens_out", found
                yield f"pad{padding}/g{guidance}/latents_out", unpack(found, 4, 8)
        with wrapped_transformer(double, "published", 4, 8, padding=padding):
            yield f"pad{padding}/g1.0/tokens_out64", call(double, stored, 1.0, torch.float64)
    with wrapped_transformer(double, "continued", 4, 8):
        yield "continued_ids/pad1/g1.0/tokens_out64", call(double, stored, 1.0, torch.float64)
    made, image = generator(), stored["vae/in/image"] / 2 + 0.5
    spread = made.pipeline.vae.encode(2 * image - 1).latent_dist
    yield from (("vae/mean", spread.mean), ("vae/logvar", spread.logvar))
    yield "vae/latents_from_mean", made.encode(image, wrap=False)
    for name, options in (("decoded", {"wrap": False}), ("decoded_wrapped2", {"tiled_border": 2})):
        yield f"vae/{name}", made.decode(stored["vae/latents_from_mean"], **options)  # type: ignore[arg-type]


def training(stored: Stored, folder: Path) -> Found:
    """Yield the intermediate results of one step of the published trainers."""
    network, latents, noise, sigma = golden.transformer(), stored["in/latents"], stored["in/noise"], stored["sigmas"]
    yield "sigmas", draw_levels(2, uniform=stored["in/u"])
    share = sigma.view(-1, 1, 1, 1)
    noisy = (1 - share) * latents + share * noise
    yield from (
        ("noisy", noisy),
        ("target", noise - latents),
        ("pad1/model_in/hidden_states", wrap_columns(pack(noisy), 8, 1)),
    )
    for padding in (0, 1, 2):
        inputs = stored | {"packed": pack(noisy), "in/timestep": sigma}
        with wrapped_transformer(network, "published", 4, 8, padding=padding):
            yield f"pad{padding}/pred", unpack(call(network, inputs, 1.0, torch.float32), 4, 8)
    for name, maps in (("pred", stored["pad1/pred"]), ("target", stored["target"])):
        yield f"cube/{name}", dit360_cube(maps, 4)
        for angle in (60, 180, 300):
            yield f"yaw{angle}/{name}", published_yaw(maps, angle)
    mask = stored["mask_resize/image_u8"] > 127
    yield "mask_resize/right", latent_mask(mask, 8, "nearest")
    yield "mask_resize/published_as_used", latent_mask(mask, 8, "published")


def losses(stored: Stored, folder: Path) -> Found:
    """Yield the ratio of every loss to the published one; the expected value is 1."""
    tables = json.loads((folder / "training.json").read_text())
    stored = load_file(folder / "training.safetensors")
    one = torch.ones(2, 8, 16, dtype=torch.bool)
    for name, expected in tables["losses"].items():
        if name.startswith("plain"):
            padding, epoch, angle = (int(part) for part in re.findall(r"\d+", name))
            found = FlowLoss(**PLAIN)(stored[f"pad{padding}/pred"], stored["target"], epoch=epoch, angle=angle)
            pairs = {"total": "train_loss", "flow": "loss_v", "yaw": "loss_yaw", "cube": "loss_cube"}
            yield from ((f"{name}/{key}", found[term] / expected[key]) for term, key in pairs.items() if term in found)
            continue
        mask = stored["in/mask"] if "mask/" in name else stored["in/mask_mixed_batch"] if "perspective" in name else one
        epoch = int(match[1]) if (match := re.search(r"epoch(\d)", name)) else 0
        found = FlowLoss(**MIXED)(stored["pad1/pred"], stored["target"], mask=mask.bool(), epoch=epoch, angle=180)
        yield name, found["total"] / expected
    right = tables["independent_float64"]
    found = FlowLoss(cube=0.5)(stored["pad1/pred"], stored["target"])
    yield "right/cube", found["cube"] / right["loss_cube pixel-centre"]
    masked = FlowLoss()(stored["pad1/pred"], stored["target"], mask=stored["in/mask"].bool())
    yield "right/masked", masked["flow"] / right["masked loss, mean over all masked elements of the batch, no factor"]


def sampling(stored: Stored, folder: Path) -> Found:
    """Yield the results of whole sampling runs."""
    made = generator()
    noise, embeddings = stored["in/noise"], (stored["in/prompt_embeds"], stored["in/pooled_prompt_embeds"])
    seen: dict[str, list[Tensor]] = {"velocity": [], "latents_after_step": []}

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen["latents_after_step"].append(kwargs["hidden_states"][0])

    def after(module: Any, args: Any, output: Any) -> None:
        seen["velocity"].append(wrap_columns(output[0], 16, 1)[0])  # cropped columns equal the columns they copy

    hooks = [
        made.pipeline.transformer.register_forward_pre_hook(before, with_kwargs=True),
        made.pipeline.transformer.register_forward_hook(after),
    ]
    runs = {"": ("published", None), "unpadded_mu/": ("published", "unpadded"), "nopad/": ("none", None)}
    for name, (seam, length) in runs.items():
        latents = made.sample(None, noise, steps=4, seam=seam, length=length, embeddings=embeddings)  # type: ignore[arg-type]
        yield f"{name}final_packed", pack(latents)
        if name:
            continue
        for hook in hooks:
            hook.remove()
        yield "final_latents", latents
        states = [
            *(wrap_columns(state, 16, 1) for state in seen["latents_after_step"][1:]),
            wrap_columns(pack(latents)[0], 16, 1),
        ]
        yield "latents_after_step", torch.stack([state.reshape(8, 18, -1) for state in states])
        image = (made.decode(latents, wrap=False)[0] * 255).round().permute(1, 2, 0)
        yield "image_u8", image / 255


def editing_(stored: Stored, folder: Path) -> Found:
    """Yield inversions, edits and one attention layer."""
    network, latents, keep = golden.transformer(), stored["in/image_latents"], stored["in/mask"]
    levels = editing.sigmas_for(golden.scheduler(), 6, 32)
    padded, ids = wrap_columns(pack(latents), 8, 1), wrap_columns(position_ids(4, 8), 8, 1)
    yield from (("sigmas", levels), ("image_latents_padded", padded), ("ids", ids))
    for name, wrap in (("mask_replicate", False), ("mask_circular", True)):
        yield name, editing.token_mask(keep, 8, 1, wrap)
    predict = editing.predictor(
        network, filled("edit.source_prompt_embeds", (1, 512, 32)), stored["in/source_pooled"], ids
    )
    noise = stored["in/inversion_noise_padded_tokens"]
    yield "gamma1/inverted", editing.invert(None, padded, noise, levels)
    yield "gamma0.5/inverted", editing.invert(predict, padded, noise, levels, 0.5)
    yield "right/gamma0.5/inverted", editing.walk_to_noise(predict, padded, noise, levels, 0.5)
    texts = filled("edit.prompt_embeds", (2, 512, 32)), stored["in/pooled"]
    cases: dict[str, dict[str, Any]] = {
        "published": {},
        "circular_mask": {"wrap_mask": True},
        "inverse_mask": {},
        "tau0.8": {"replace_until": 0.8},
        "tau0.2": {"replace_until": 0.2},
        "gamma0.5_eta0.9_stop0.5": {"eta": 0.9, "stop": 0.5},
        "no_replacement": {"replacing": False},
        "no_overwrite": {"keep_until": 2.0},
    }
    for name, options in cases.items():
        start = stored["gamma0.5/inverted" if "gamma0.5" in name else "gamma1/inverted"]
        mask = 1 - keep if name == "inverse_mask" else keep
        found = editing.published_edit(network, latents, start, stored["in/new_noise"], mask, *texts, levels, **options)
        yield f"{name}/final_packed", found
    found = editing.consistent_edit(
        network, latents, stored["in/inversion_noise"], stored["in/new_noise"], keep, *texts, levels
    )
    yield "right/consistent/final_packed", found
    turns = network.pos_embed(torch.cat([torch.zeros(512, 3), ids]))
    hidden, context = filled("edit.attn_hidden", (2, 40, 48)), filled("edit.attn_enc", (2, 512, 48))
    inputs = {"hidden_states": hidden, "encoder_hidden_states": context, "image_rotary_emb": turns}
    with editing.replaced_tokens(network, stored["mask_replicate"], 512):
        image, text = network.transformer_blocks[0].attn(**inputs)
    yield from (("attn/out_t0.9", image), ("attn/context_out_t0.9_first8", text[:, :8]))
    yield "attn/out_t0.5_no_replacement", network.transformer_blocks[0].attn(**inputs)[0]


def lora(stored: Stored, folder: Path) -> Found:
    """Yield velocities with an adapter."""
    from tempfile import TemporaryDirectory

    from safetensors.torch import save_file

    inputs = load_file(folder / "tokens.safetensors")
    weights = golden.adapter()
    quarter = {f"{key.rsplit('.lora_', 1)[0]}.alpha": torch.tensor(1.0) for key in weights}
    yield "base_out", call(golden.transformer(), inputs, 2.8, torch.float32)
    with TemporaryDirectory() as name:
        for expected, extra, strength in (
            ("alpha=rank/out", {}, 1.0),
            ("alpha=rank/scale0.5/out", {}, 0.5),
            ("alpha=rank/4 by .alpha keys/out", quarter, 1.0),
        ):
            made = generator()
            save_file(weights | extra, Path(name) / "adapter_model.safetensors")
            load_adapter(made.pipeline, name, strength)
            yield expected, call(made.pipeline.transformer, inputs, 2.8, torch.float32)


def geometry(stored: Stored, folder: Path) -> Found:
    """Yield turned panoramas, cubes, photographs and poles."""
    erp = stored["in/erp"].float()[None]
    for angle in (60, 180, 300):
        yield f"yaw{angle}/published", published_yaw(erp, angle)[0]
        yield f"yaw{angle}/right_roll", erp[0].roll(-round(32 * angle / 360), -1)
    yield "cube/published", dit360_cube(erp, 8)[0]
    yield "cube/right64", sphere.to_cubemap(erp.double(), 8)[0]
    for case, view in json.loads((folder / "geometry.json").read_text())["persp_cases"].items():
        rotation = sphere.rotation_matrix(yaw=view["yaw"], pitch=view["pitch"])
        image, mask = place_photo(stored["persp/in/photo"], rotation, view["fov"], 64)
        yield from ((f"persp/{case}/erp", image), (f"persp/{case}/mask", mask))
        for rule in ("all", "any", "nearest", "published"):
            yield f"persp/{case}/latent_mask_{rule}", latent_mask(mask, 8, rule)  # type: ignore[arg-type]
    panorama, new = stored["polar/in/erp"].double(), list(stored["polar/in/new_UD"].double())
    size = new[0].shape[-1]
    yield "polar/face_mask_keep", ~hole_of_face(size)
    yield "polar/erp_mask_replace", hole_of_panorama(*panorama.shape[1:])
    yield "polar/faces64_UD", polar_faces(panorama, size)
    seen: list[Tensor] = []

    def inpaint(face: Tensor, hole: Tensor, seed: int) -> Tensor:
        seen.append(face)
        return torch.where(hole, new[len(seen) - 1], face)

    yield "polar/erp_out64", refine(panorama, inpaint, size=size)
    yield "polar/masked64_UD", torch.stack(seen)


def augment(stored: Stored, folder: Path) -> Found:
    """Yield prepared panoramas."""
    for case in json.loads((folder / "augment.json").read_text())["cases"]:
        name = case["name"] if "name" in case else f"seed{case['seed']}"
        pixels = stored["in/image_u8"].numpy()
        yield name, 2 * prepare_panorama(pixels, 16, mirror=case["flipped"], turn=case["shift_to_the_right"]) - 1


FILES: dict[str, Callable[[Stored, Path], Found]] = {
    "tokens": tokens,
    "training": training,
    "training, losses": losses,
    "sampling": sampling,
    "editing": editing_,
    "lora": lora,
    "geometry": geometry,
    "augment": augment,
}


def expected_of(stored: Stored, name: str, found: Tensor) -> Tensor | None:
    """Return the stored value of a tensor in our range of values, or None if there is none."""
    if name not in stored:
        return None
    expected = stored[name].double()
    if name.startswith("vae/decoded"):
        expected = (expected / 2 + 0.5).clamp(0, 1)
    return expected / 255 if name == "image_u8" else expected


@torch.no_grad()
def main(folder: Path) -> None:
    """Print the table."""
    print("| file | compared | not compared | largest difference | where | tolerance |\n|---|--:|--:|--:|---|--:|")
    for name, compute in FILES.items():
        path = folder / f"{name}.safetensors"
        stored = load_file(path) if path.is_file() else {}
        worst, where, compared = 0.0, "", set()
        for key, found in compute(stored, folder):
            expected = expected_of(stored, key, found) if stored else torch.ones(())
            if expected is None:
                continue
            compared.add(key)
            shape_ok = found.numel() == expected.numel()
            difference = (
                (found.double().reshape(expected.shape) - expected).abs().max().item() if shape_ok else torch.inf
            )
            if "yaw" in key and key.endswith("/published"):  # rounding decides the rows at the poles
                difference = (found.double() - expected)[..., 1:-1, :].abs().max().item()
            if not difference < worst:  # also if it is not a number
                worst, where = difference, key
        left = [key for key in stored if key not in compared and "in/" not in key]
        print(f"| {name} | {len(compared)} | {len(left)} | {worst:.1e} | {where} | {TOLERANCES[name]:.1e} |")
        if left:
            print(f"  not compared in {name}: {', '.join(left)}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
