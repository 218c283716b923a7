"""Training a generator: compared with the published trainers, and through the real command line."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import golden_dit360 as golden
import numpy as np
import pytest
import torch
from golden_dit360 import filled
from lightning.pytorch import Trainer
from PIL import Image
from processes import side_by_side
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.adapters import read_adapter, save_adapter
from mtpano_zoo.generation.data import (
    PromptsDataModule,
    PromptsDataset,
)
from mtpano_zoo.generation.loading import PretrainedFlux, describe_base, load_generator
from mtpano_zoo.generation.losses import FlowLoss
from mtpano_zoo.generation.module import DiT360Module
from mtpano_zoo.generation.precompute import LatentsDataset, precompute
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.generation.tiny import TinyFlux

SHAPE = (2, 16, 8, 16)
TABLES = json.loads((golden.FOLDER / "training.json").read_text())
PUBLISHED = {"cube": 0.5, "yaw": 0.5, "cube_sampling": "published", "first_epoch": 2}


def golden_module(**options: object) -> DiT360Module:
    return DiT360Module(Generator(golden.pipeline()), dropout=0.0, rank=4, alpha=4, **options)


def tiny() -> TinyFlux:
    return TinyFlux(["a", "room"], width=32, double_blocks=1, single_blocks=1, text_width=16, text_layers=1)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_step_of_the_published_trainer(padding: int) -> None:
    """From the drawn numbers to the loss; an adapter that has learnt nothing changes nothing."""
    stored = golden.tensors("training")
    module = golden_module(seam="published", padding=padding, loss=FlowLoss(**PUBLISHED))
    received = {}
    transformer = module.base.pipeline.transformer
    transformer.x_embedder.register_forward_pre_hook(lambda layer, args: received.update(tokens=args[0]))
    uniform = (filled("train.u", (2,), b=1.0) + 1) / 2
    sigma = (1000 - (1000 * uniform).long()).float() / 1000
    torch.testing.assert_close(sigma, stored["sigmas"])
    batch = {
        "latents": filled("train.latents", SHAPE),
        "text": filled("train.prompt_embeds", (2, 12, 32)),
        "pooled": filled("train.pooled_prompt_embeds", (2, 24)),
    }
    noise = filled("train.noise", SHAPE)
    for epoch in (1, 2):
        terms = module.terms(batch, epoch=epoch, angle=180, noise=noise, sigma=sigma)
        expected = TABLES["losses"][f"plain trainer/pad{padding}/epoch{epoch}/angle180"]["train_loss"]
        assert terms["total"].item() == pytest.approx(expected, rel=1e-5)
    if padding == 1:
        torch.testing.assert_close(received["tokens"], stored["pad1/model_in/hidden_states"], atol=1e-6, rtol=0)
    share = sigma.view(-1, 1, 1, 1)
    predicted = module.velocity((1 - share) * batch["latents"] + share * noise, sigma, batch["text"], batch["pooled"])
    torch.testing.assert_close(predicted, stored[f"pad{padding}/pred"], atol=3e-5, rtol=0)


def test_published_numbers_are_those_of_the_stored_inputs() -> None:
    stored = golden.tensors("training")
    latents, noise = filled("train.latents", SHAPE), filled("train.noise", SHAPE)
    torch.testing.assert_close(noise - latents, stored["target"])


def test_processes_draw_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    module = DiT360Module(tiny(), rank=2, alpha=2)
    drawn = []
    for rank in (0, 1, 1):
        monkeypatch.setattr(DiT360Module, "global_rank", rank)
        torch.manual_seed(0)  # as Lightning does in every process
        module.on_train_start()
        drawn.append(torch.rand(()))
    assert drawn[0] != drawn[1] == drawn[2]


def validate(rank: int, folder: Path) -> None:
    """One of two processes: the second has photographs only, which have no cube and no yaw term."""
    whole, part = torch.ones(16, 32, dtype=torch.bool), (torch.arange(32) < 20).expand(16, 32)
    samples = [{"image": torch.rand(3, 16, 32), "caption": "a room", "mask": mask} for mask in (whole, part) * 2]
    module = DiT360Module(tiny(), loss=FlowLoss(cube=0.5, yaw=0.5), rank=2, alpha=2)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    both = Trainer(accelerator="cpu", devices=2, strategy="ddp", **quiet)
    (scores,) = both.validate(module, DataLoader(samples), verbose=False)
    (folder / f"scores-{rank}.json").write_text(json.dumps(scores))


@pytest.mark.slow
def test_a_process_with_photographs_only_does_not_keep_the_other_waiting(tmp_path: Path) -> None:
    side_by_side(validate, tmp_path, folder=tmp_path, seconds=60)
    first, second = (json.loads((tmp_path / f"scores-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first.keys() == {"val/loss", "val/loss/flow", "val/loss/cube", "val/loss/yaw"}
    assert min(first.values()) > 0


def test_every_parameter_that_learns_gets_a_gradient() -> None:
    batch = {"image": torch.rand(2, 3, 16, 32), "caption": ["a room", "a"]}
    for learns in ("adapter", "everything"):
        module = DiT360Module(tiny(), learns=learns, rank=2, alpha=2, seam="roll")
        for name, parameter in module.named_parameters():
            if "lora_B" in name:  # zero at first, which leaves A without gradient
                torch.nn.init.normal_(parameter)
        module.terms(batch, epoch=0, angle=60)["total"].backward()
        without = [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert without == [], without
        frozen = [n for n, p in module.named_parameters() if not p.requires_grad and p.grad is not None]
        assert frozen == []


def test_what_learns_is_float32_on_a_base_of_16_bits(tmp_path: Path) -> None:
    """The published step size of 2e-5 is far below the resolution of bfloat16 for an adapter's weights."""
    tiny().pipeline.save_pretrained(tmp_path)
    module = DiT360Module(PretrainedFlux(str(tmp_path)), rank=2, alpha=2, seam="none")
    assert module.base.pipeline.transformer.x_embedder.weight.dtype == torch.bfloat16
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in learnt]
    optimizer = torch.optim.SGD(learnt, lr=1.0)
    module.terms({"image": torch.rand(1, 3, 16, 32), "caption": ["a room"]}, epoch=0, angle=60)["total"].backward()
    for parameter in learnt:
        parameter.grad.fill_(2e-5)
    optimizer.step()
    for parameter, old in zip(learnt, before, strict=True):
        torch.testing.assert_close(old - parameter, torch.full_like(old, 2e-5), rtol=1e-2, atol=0)


def test_training_continues_from_an_adapter(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tiny().pipeline.save_pretrained("base")
    write_list(folder)
    first = DiT360Module(PretrainedFlux("base"), rank=2, alpha=6)
    for name, parameter in first.base.pipeline.transformer.named_parameters():
        if "lora_" in name:
            parameter.data = filled(name, tuple(parameter.shape), b=0.1)
    save_adapter(first.base.pipeline.transformer, "first")
    # Without a step, it is saved as it was loaded: nothing is rounded to the base's bfloat16.
    again = DiT360Module(PretrainedFlux("base", "first"), rank=2, alpha=6, dropout=0.5)
    save_adapter(again.base.pipeline.transformer, "again")
    before, unchanged = read_adapter("first"), read_adapter("again")
    assert unchanged.keys() == before.keys() and all(torch.equal(unchanged[key], before[key]) for key in before)
    dropouts = [layer.p for name, layer in again.named_modules() if name.endswith("lora_dropout.default")]
    assert dropouts == [0.5] * 7

    # One step of AdamW with a constant schedule moves every weight by at most the learning rate and its decay.
    options = [
        "--model.base.source=base",
        "--model.base.adapter=first",
        "--model.base.prefix=a ",
        "--model.lr=0.0001",
        "--model.dropout=0",
        "--model.rank=2",
        "--trainer.max_steps=1",
        "--trainer.accumulate_grad_batches=1",
        "--data.height=32",
        "--data.num_workers=0",
    ]
    fit = ["fit", "--config", "dit360/train.yaml", *options, *FAST]
    assert main([*fit, "--model.alpha=6"]) == 0
    after = read_adapter("runs/version_0/adapter")
    assert after.keys() == before.keys()
    moved = {key: (after[key] - before[key]).abs().max().item() for key in before if "lora_" in key}
    assert all(0 < distance < 1.1e-4 for distance in moved.values()), moved
    assert all(after[key] == 6 for key in after if key.endswith(".alpha"))
    with pytest.raises(InputError, match="`learns: everything` writes no adapter"):
        DiT360Module(PretrainedFlux("base", "first"), learns="everything")
    capsys.readouterr()
    assert main([*fit, "--model.alpha=4"]) == 1
    assert "the base's adapter has alpha 6, but training asks for alpha 4: set `alpha`" in capsys.readouterr().err


def test_masked_pixels_do_not_matter() -> None:
    torch.manual_seed(0)
    module = DiT360Module(tiny(), rank=2, alpha=2, seam="none")
    mask = torch.ones(1, 16, 32, dtype=torch.bool)
    mask[:, :, 21:] = False
    noise, sigma = torch.randn(1, 12, 8, 16), torch.full((1,), 0.5)
    latents = torch.randn(1, 12, 8, 16)
    target = noise - latents
    text, pooled = module.base.embed(["a room"])
    predicted = module.velocity((latents + noise) / 2, sigma, text, pooled)
    batch = {"latents": latents, "text": text, "pooled": pooled, "mask": mask}
    found = module.terms(batch, epoch=0, angle=60, noise=noise, sigma=sigma)["flow"]
    expected = (predicted - target)[..., :10].square().mean()  # 21 pixels cover 10 latents
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = DiT360Module(tiny(), learns="everything", seam="roll", gradient_checkpointing=checkpointing)
        batch = {"image": torch.rand(1, 3, 16, 32), "caption": ["a room"]}
        module.terms(batch, epoch=0, angle=60)["total"].backward()
        found.append(module.base.pipeline.transformer.x_embedder.weight.grad)
    torch.testing.assert_close(*found)


def test_sizes_and_texts_are_looked_at_before_the_training(tmp_path: Path) -> None:
    module = DiT360Module(tiny(), rank=2, alpha=2, seam="none")
    with pytest.raises(InputError, match="not 30 x 60: the nearest is 32 x 64"):
        module.terms({"image": torch.rand(1, 3, 30, 60), "caption": ["a room"]}, epoch=0, angle=60)
    path = write_list(tmp_path)
    path.write_text(path.read_text().replace("a room", "a room " * 2000))
    module.trainer = SimpleNamespace(datamodule=PromptsDataModule(str(path), height=32))
    with pytest.raises(InputError, match="has 4001 tokens, of which 32 would be read: shorten it"):
        module.on_fit_start()
    with pytest.raises(InputError, match="4001 tokens"):
        precompute(module.base, path, tmp_path / "latents", height=32, model={}, loaded={"precision": "float32"})
    assert not (tmp_path / "latents").exists()
    module.base.pipeline.tokenizer_2 = None
    with pytest.raises(InputError, match="train on LatentsDataModule"):
        module.on_fit_start()


def write_list(folder: Path, masks: bool = False) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), np.uint8)).save(folder / f"{name}.png")
        lines.append({"image": f"{name}.png", "caption": "a room"})
    if masks:
        white = np.zeros((32, 64), np.uint8)
        white[:, :32] = 255
        Image.fromarray(white).save(folder / "b_mask.png")
        lines[1]["mask"] = "b_mask.png"
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_list_of_images(tmp_path: Path) -> None:
    data = PromptsDataset(write_list(tmp_path, masks=True), 32)
    panorama, photograph = data[0], data[1]
    assert panorama["mask"].all()
    assert photograph["mask"][:, :32].all() and not photograph["mask"][:, 32:].any()
    original = torch.from_numpy(np.array(Image.open(tmp_path / "b.png"))).permute(2, 0, 1) / 255
    assert torch.equal(photograph["image"], original)  # neither mirrored nor turned
    for line, sentence in (
        ('{"image": "a.png", "caption": " "}', "caption is empty"),
        ('{"image": 3}', "not of the form"),
    ):
        (tmp_path / "bad.jsonl").write_text(line)
        with pytest.raises(InputError, match=sentence):
            PromptsDataset(tmp_path / "bad.jsonl", 32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


FAST = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def test_adapter_is_trained_and_used(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tiny().pipeline.save_pretrained("base")
    write_list(folder, masks=True)
    smaller = [
        "--model.base.source=base",
        "--model.base.dtype=float32",
        "--model.base.prefix=a ",
        "--model.rank=2",
        "--model.lr=0.01",
        "--trainer.precision=32-true",
        "--trainer.max_epochs=1",
        "--trainer.accumulate_grad_batches=1",
        "--data.height=32",
        "--data.num_workers=0",
    ]
    assert main(["fit", "--config", "dit360/train.yaml", *smaller, *FAST]) == 0
    printed = capsys.readouterr().out
    assert "mtpano generate" in printed and "mtpano run" not in printed
    adapter = Path("runs/version_0/adapter")
    weights = read_adapter(adapter)
    assert any(value.any() for key, value in weights.items() if "lora_B" in key)
    saved = torch.load("runs/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert saved and all("lora_" in name for name in saved)
    options = {"height": 32, "width": 64, "steps": 1}
    trained = load_generator("base", adapter, device="cpu")
    assert trained.prefix == "a " and load_generator("base", adapter, device="cpu", prefix="").prefix == ""
    assert describe_base("base", adapter)["prefix"] == "a " and "prefix" not in describe_base("base", None)
    changed = trained.generate("a room", **options)
    assert (changed != load_generator("base", device="cpu").generate("a room", **options)).any()


def test_training_on_what_was_computed_before(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tiny().pipeline.save_pretrained("base")
    write_list(folder, masks=True)
    precompute = ["generate", "precompute", "train.jsonl", "--base", "base", "--height", "32", "--shard-size", "1"]
    assert main([*precompute, "--out", "latents", "--device", "cpu"]) == 0
    Path("latents/000001.safetensors").unlink()  # a killed run
    with pytest.raises(InputError, match=r"lacks 000001\.safetensors"):
        LatentsDataset("latents")
    assert main([*precompute, "--out", "latents", "--device", "cpu"]) == 0
    assert "1 files written, 1 skipped because they were written already" in capsys.readouterr().out
    assert main([*precompute, "--out", "latents", "--prefix", "A panorama: "]) == 1
    assert "settings.prefix was '', is 'A panorama: '" in capsys.readouterr().err
    image = PromptsDataset("train.jsonl", 32).files([0])[0]
    before = image.read_bytes()
    image.write_bytes(before + b" ")
    assert main([*precompute, "--out", "latents", "--device", "cpu"]) == 1
    assert "latents/000000.safetensors is of other images" in capsys.readouterr().err
    image.write_bytes(before)
    # Nor are precisions and quantizations mixed, unless the manifest is of a release that did not record them.
    path = Path("latents/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["settings"].pop("precision") == "float32"
    assert manifest["settings"].pop("quantize") == "none"
    for other, sentence in (
        ({"precision": "bfloat16"}, "settings.precision was 'bfloat16', is 'float32'"),
        ({"quantize": "nf4"}, "settings.quantize was 'nf4', is 'none'"),
        ({}, ""),
    ):
        path.write_text(json.dumps({**manifest, "settings": manifest["settings"] | other}))
        assert main([*precompute, "--out", "latents", "--device", "cpu"]) == bool(sentence)
        assert sentence in capsys.readouterr().err

    images = PromptsDataset("train.jsonl", 32, mirror=0.0, turns=None)
    computed = LatentsDataset("latents")
    module = DiT360Module(load_generator("base", device="cpu"), rank=2, alpha=2, seam="none")
    noise, sigma = torch.randn(1, 12, 16, 32), torch.full((1,), 0.5)
    for i in range(2):
        losses = []
        for sample in (images[i], computed[i]):
            batch = {k: [v] if isinstance(v, str) else v[None] for k, v in sample.items()}
            losses.append(module.terms(batch, epoch=0, angle=60, noise=noise, sigma=sigma)["total"].item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # of bfloat16
    assert computed[1]["mask"].shape == (16, 32) and not computed[1]["mask"].all()
    turned = LatentsDataset("latents", turned=True)
    seen = [turned[0]["latents"] for _ in range(5)]
    whole = [computed[0]["latents"].roll(k, -1) for k in range(32)]
    assert all(any(torch.equal(one, other) for other in whole) for one in seen)
    assert torch.equal(turned[1]["latents"], computed[1]["latents"])  # a photograph

    options = [
        "--model.base.source=base",
        "--model.base.transformer_only=true",
        "--model.rank=2",
        "--data=mtpano_zoo.generation.precompute.LatentsDataModule",
        "--data.train=latents",
        "--data.num_workers=0",
        "--trainer.max_steps=1",
        "--trainer.accumulate_grad_batches=1",
    ]
    fit = ["fit", "--config", "dit360/train.yaml", *options, *FAST]
    capsys.readouterr()
    assert main([*fit, "--model.mask_rule=any"]) == 1
    assert "`mask_rule: any` cannot be used with precomputed latents" in capsys.readouterr().err
    assert main(fit) == 0
    assert len(list(Path("runs").glob("*/adapter/adapter_model.safetensors"))) == 1


def test_small_generator_is_trained_and_used(folder: Path) -> None:
    smaller = [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1",
        "--model.base.width=32",
        "--model.base.double_blocks=1",
        "--model.base.single_blocks=1",
        "--data.height=16",
        "--data.width=32",
        "--data.train_count=4",
        "--data.val_count=2",
        "--data.batch_size=2",
    ]
    assert main(["fit", "--config", "dit360/rooms-tiny.yaml", *smaller, *FAST]) == 0
    base = Path("runs/version_0/generator")
    assert load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    assert main(["generate", "a room", "--base", str(base), "--height", "32", "--steps", "1", "--out", "made"]) == 0
    assert len(list(Path("made/img").iterdir())) == 1
