"""Refined poles, compared with an independent calculation in float64, and with properties that must hold."""

import json
from pathlib import Path

import golden_dit360 as golden
import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxTransformer2DModel
from golden_dit360 import filled
from PIL import Image

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.polar import (
    hole_of_face,
    hole_of_panorama,
    load_inpainter,
    polar_faces,
    refine,
    refine_folder,
)
from mtpano_zoo.generation.tiny import TinyFlux

SIZE = 16


def test_holes_and_faces() -> None:
    stored = golden.tensors("geometry")
    assert torch.equal(~hole_of_face(SIZE), stored["polar/face_mask_keep"].bool())
    assert torch.equal(hole_of_panorama(16, 32), stored["polar/erp_mask_replace"].bool())
    erp = filled("geo.polar_erp", (3, 16, 32), a=0.5, b=0.5).double()
    torch.testing.assert_close(polar_faces(erp, SIZE), stored["polar/faces64_UD"], atol=1e-9, rtol=0)
    new = filled("geo.polar_new", (2, 3, SIZE, SIZE), a=0.5, b=0.5).double()
    seen = []

    def inpaint(face: torch.Tensor, hole: torch.Tensor, seed: int) -> torch.Tensor:
        seen.append(face)
        return torch.where(hole, new[len(seen) - 1], face)

    refined = refine(erp, inpaint, size=SIZE)
    torch.testing.assert_close(torch.stack(seen), stored["polar/masked64_UD"], atol=1e-9, rtol=0)
    torch.testing.assert_close(refined, stored["polar/erp_out64"], atol=1e-9, rtol=0)
    outside = ~hole_of_panorama(16, 32)
    assert torch.equal(refined[:, outside], erp[:, outside])


def test_share_of_the_sphere() -> None:
    """The cap is a square of half the face's side: 2 of 6 faces, each seen under a known solid angle."""
    hole = hole_of_panorama(512, 1024)
    latitude = (0.5 - (torch.arange(512) + 0.5) / 512) * torch.pi
    share = (hole.double() * torch.cos(latitude)[:, None]).sum() / (torch.cos(latitude).sum() * 1024)
    solid_angle = 4 * np.arcsin(0.25 / (1 + 0.25))  # of a square pyramid with half sides of 0.5 at distance 1
    assert share.item() == pytest.approx(2 * solid_angle / (4 * np.pi), abs=1e-3)


def test_folder(tmp_path: Path) -> None:
    source, out = tmp_path / "panoramas", tmp_path / "refined"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    Image.fromarray(pixels).save(source / "a.png")

    def inpaint(face: torch.Tensor, hole: torch.Tensor, seed: int) -> torch.Tensor:
        return torch.where(hole, torch.zeros_like(face), face)

    assert refine_folder(source, out, inpaint, {"steps": 28}) == (1, 0)
    (written,) = out.glob("*.png")
    found, hole = np.array(Image.open(written)), hole_of_panorama(32, 64).numpy()
    assert (found[~hole] == pixels[~hole]).all()
    assert found[0].max() == 0
    assert refine_folder(source, out, inpaint, {"steps": 28}) == (0, 1)
    now = {"steps": 28, "precision": "bfloat16", "files": {}}  # not in the manifest, as of earlier releases
    assert refine_folder(source, out, inpaint, now) == (0, 1)
    Image.fromarray(pixels[::-1]).save(source / "a.png")
    with pytest.raises(InputError, match=r"a\.png is of an earlier"):
        refine_folder(source, out, inpaint, now)
    with pytest.raises(InputError, match="steps was 28, is 10"):
        refine_folder(source, out, inpaint, {"steps": 10})
    with pytest.raises(InputError, match="is the folder of the panoramas"):
        refine_folder(source, source, inpaint, {})
    with pytest.raises(InputError, match="multiple of 4"):
        refine(torch.zeros(3, 16, 32), inpaint, size=6)


@pytest.mark.parametrize(("height", "side"), [(16, 16), (90, 32), (100, 48)])
def test_faces_have_a_side_that_models_take(height: int, side: int) -> None:
    sides = []

    def inpaint(face: torch.Tensor, hole: torch.Tensor, seed: int) -> torch.Tensor:
        sides.append(face.shape[1:])
        return face

    panorama = torch.rand(3, height, 2 * height)
    assert refine(panorama, inpaint).shape == panorama.shape
    assert sides == [(side, side)] * 2


def test_nothing_of_what_is_in_the_hole_remains(base: Path) -> None:
    """An inpainting variant would start from what is in the hole and skip steps: FLUX.1-dev 40 % of them."""
    inpaint = load_inpainter(str(base), "a sky", steps=5, seed=0, device="cpu")
    hole, face = hole_of_face(32), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    white, black = (inpaint(torch.where(hole, colour, face), hole, 0) for colour in (torch.ones(()), torch.zeros(())))
    assert torch.equal(white[:, hole], black[:, hole])


def test_the_pipeline_that_fills_faces_as_published(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """FLUX.1-Fill: its transformer sees noise, the rest of the image and the mask; `AutoPipeline` lacks it."""
    small = TinyFlux(width=32, double_blocks=1, single_blocks=1, text_width=32, text_layers=1, max_tokens=8).pipeline
    texts = {name: small.components[name] for name in ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")}
    sizes = golden.FLUX | {"in_channels": 384, "out_channels": 64, "num_layers": 1, "num_single_layers": 1}
    torch.manual_seed(0)
    parts = {"transformer": FluxTransformer2DModel(**sizes), "vae": golden.autoencoder()}
    FluxFillPipeline(**parts, **texts, scheduler=golden.scheduler()).save_pretrained(tmp_path / "fill")
    (tmp_path / "made").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "made" / "a.png")
    out = tmp_path / "refined"
    arguments = ["generate", "refine", str(tmp_path / "made"), "--model", str(tmp_path / "fill"), "--steps", "1"]
    assert main([*arguments, "--out", str(out), "--device", "cpu"]) == 0
    found, hole = np.array(Image.open(next(out.glob("*.png")))), hole_of_panorama(64, 128).numpy()
    assert (found[~hole] == pixels[~hole]).all()
    assert (found[hole] != pixels[hole]).any(-1).mean() > 0.9
    assert "licence unknown" in capsys.readouterr().err
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    assert settings["strength"] == 1 and settings["precision"] == "float32"
    assert "transformer/config.json" in settings["files"]
    path = next((tmp_path / "fill" / "transformer").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))  # as if it had been trained
    assert main([*arguments, "--out", str(out), "--device", "cpu"]) == 1
    assert f"settings.files.transformer/{path.name} was" in capsys.readouterr().err
    assert main([*arguments, "--out", str(out), "--device", "cpu", "--offload", "model"]) == 1
    assert "but the device is a CPU: leave it out" in capsys.readouterr().err
