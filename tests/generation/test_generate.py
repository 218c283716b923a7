"""`mtpano generate` and `mtpano fit` with a small model that is made here: nothing is downloaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mtpano_zoo.cli import main
from mtpano_zoo.data import GeneratedDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.loading import load_generator
from mtpano_zoo.generation.prompts import expand, plan, read_prompts
from mtpano_zoo.generation.tiny import TinyFlux

WORDS = ["a", "dark", "bright", "room", "with", "window"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    TinyFlux(WORDS, width=32, double_blocks=1, single_blocks=1, text_width=16, text_layers=1).pipeline.save_pretrained(
        folder
    )
    return folder


def generate(base: Path, out: Path, *arguments: str) -> int:
    return main(["generate", *arguments, "--base", str(base), "--out", str(out), "--height", "32", "--steps", "2"])


def images(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "img").glob("*"))}


def test_folder_is_a_data_set_and_can_be_continued(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "generated"
    assert generate(base, out, "a dark room", "--count", "2") == 0
    assert "licence unknown" in capsys.readouterr().err
    first = images(out)
    assert list(first) == ["000000_0.jpg", "000000_1.jpg"]
    assert len(set(first.values())) == 2
    data = GeneratedDataModule(out, height=32, width=64)
    assert data.prompts == dict.fromkeys(["000000_0", "000000_1"], "a dark room")
    # What a killed run leaves: one panorama is missing, a temporary folder is there.
    (out / "img" / "000000_1.jpg").unlink()
    (out / ".labelling-dead").mkdir()
    assert generate(base, out, "a dark room", "--count", "2") == 0
    assert "1 generated" in capsys.readouterr().out
    assert images(out) == first
    assert not list(out.glob(".labelling-*"))
    # More prompts leave the others as they are.
    assert generate(base, out, "a dark room", "a bright room", "--count", "2") == 0
    more = images(out)
    assert len(more) == 4
    assert {name: more[name] for name in first} == first
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == ["a dark room"] * 2 + ["a bright room"] * 2
    # Other settings are not mixed in, and another text under the same name is not taken for the same.
    assert generate(base, out, "a dark room", "--seam", "none") == 1
    assert "settings.seam was 'roll', is 'none'" in capsys.readouterr().err
    assert generate(base, out, "a bright room", "--count", "1") == 1
    assert images(out) == more


def test_a_panorama_depends_on_nothing_else(base: Path) -> None:
    generator = load_generator(base, device="cpu")
    options = {"height": 32, "width": 64, "steps": 2}
    one = generator.generate("a dark room", seed=1, **options)
    generator.generate("a bright room", seed=2, **options)
    torch.manual_seed(5)
    assert (generator.generate("a dark room", seed=1, **options) == one).all()
    assert one.shape == (32, 64, 3)
    assert (generator.generate("a dark room", seed=3, **options) != one).any()
    assert (generator.generate("a bright room", seed=1, **options) != one).any()


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    made = TinyFlux(WORDS, width=32, double_blocks=1, single_blocks=1, text_width=16, text_layers=1)
    made.pipeline.save_pretrained(tmp_path)
    options = {"height": 32, "width": 64, "steps": 2}
    loaded = load_generator(tmp_path, device="cpu")
    assert (made.generate("a room", **options) == loaded.generate("a room", **options)).all()
    image = torch.rand(1, 3, 32, 64)
    assert torch.allclose(loaded.decode(loaded.encode(image)), image, atol=1e-6)


def test_prompts(tmp_path: Path) -> None:
    first, second = plan(["a room", "a hall"], 1, 0)
    assert plan(["a room"], 2, 0)[0] == first
    assert first.seed != second.seed != plan(["a room"], 1, 1)[0].seed
    words = {"place": ["hall", "attic", "barn"]}
    assert expand("a {place}", words, 8, 0)[:3] == expand("a {place}", words, 3, 0)
    assert len(set(expand("a {place}", words, 30, 0))) == 3
    path = tmp_path / "prompts.txt"
    path.write_text("a room\n\na hall\n")
    with pytest.raises(InputError, match="line 2: the prompt is empty"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a room"], "no base is given"),
        (["a room", "--base", "nowhere/at-all"], "cannot be loaded"),
        (["a room", "--base", "BASE", "--height", "30"], "multiples of 4"),
        ([" ", "--base", "BASE"], "prompt number 1 is empty"),
        (["--base", "BASE"], "nothing to generate"),
        (["a room", "--base", "BASE", "--offload", "model", "--device", "cpu"], "there is none: leave it out"),
        (["a room", "--base", "BASE", "--count", "0"], "at least 1"),
        (["--template", "a {place}", "--base", "BASE"], "needs --words"),
        (["a room", "--base", "BASE", "--adapter", "dit360.flux-dev-lora"], "is not at hand"),
        (["a room", "--base", "BASE", "--seam", "wavy"], "seam"),
    ],
)
def test_mistakes(
    base: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    assert main(["generate", *(str(base) if a == "BASE" else a for a in arguments), "--out", str(out)]) == 1
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_long_prompts_and_other_bases(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(base, tmp_path / "out", "room " * 2000) == 1
    assert "tokens, of which 32 would be read" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(base, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "Flux2Pipeline"}))
    assert generate(other, tmp_path / "second", "a room") == 1
    assert "is a Flux2Pipeline, not a FluxPipeline" in capsys.readouterr().err


def test_edit(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    mask = np.zeros((32, 64, 3), np.uint8)
    mask[8:24, 56:], mask[8:24, :8] = 255, 255
    for name, array in (
        ("room", pixels),
        ("mask", mask),
        ("small", mask[:16]),
        ("grey", mask // 2),
        ("photo", pixels[:, :32]),
    ):
        Image.fromarray(array).save(tmp_path / f"{name}.png")

    def edit(image: str, out: str, *arguments: str) -> int:
        options = [
            "--base",
            str(base),
            "--prompt",
            "a room",
            "--steps",
            "2",
            "--out",
            str(tmp_path / out),
            "--height",
            "32",
        ]
        return main(["generate", "edit", str(tmp_path / f"{image}.png"), *options, *arguments])

    assert edit("room", "new.png", "--mask", str(tmp_path / "mask.png")) == 0
    found = np.array(Image.open(tmp_path / "new.png"))
    assert (found[mask == 0] == pixels[mask == 0]).all()
    assert (found[mask > 0] != pixels[mask > 0]).mean() > 0.9
    assert edit("photo", "wide.png", "--fov", "90") == 0
    assert np.array(Image.open(tmp_path / "wide.png")).shape == (32, 64, 3)
    for arguments, sentence in (
        (["--mask", str(tmp_path / "small.png")], "the mask is 16 x 64, but the panorama 32 x 64"),
        (["--mask", str(tmp_path / "grey.png")], "of the mask are grey"),
        ([], "give --mask for a panorama, or --fov"),
    ):
        assert edit("room", "other.png", *arguments) == 1
        assert sentence in capsys.readouterr().err
    assert edit("room", "new.png", "--mask", str(tmp_path / "mask.png")) == 1
    assert "is there already" in capsys.readouterr().err


def test_the_weights_are_not_touched(base: Path) -> None:
    before = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    generator = load_generator(base, device="cpu")
    generator.generate("a room", height=32, width=64, steps=1)
    after = generator.pipeline.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
