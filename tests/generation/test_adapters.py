"""Adapters, compared with the published code on a small adapter, and with plain diffusers."""

import json
import re
from pathlib import Path
from typing import Any

import golden_dit360 as golden
import pytest
import torch
from diffusers import FluxPipeline
from golden_dit360 import filled
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.adapters import add_adapter, load_adapter, read_adapter, save_adapter
from mtpano_zoo.generation.tokens import position_ids

RANK = 4


@torch.no_grad()
def output(pipe: FluxPipeline) -> torch.Tensor:
    stored = golden.tensors("tokens")
    return pipe.transformer(
        hidden_states=stored["packed"],
        encoder_hidden_states=filled("input.prompt_embeds", (2, 12, 32)),
        pooled_projections=filled("input.pooled_prompt_embeds", (2, 24)),
        timestep=stored["in/timestep"],
        guidance=torch.full((2,), 2.8),
        img_ids=position_ids(4, 8),
        txt_ids=torch.zeros(12, 3),
        return_dict=False,
    )[0]


def written(folder: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file(weights, path, metadata)
    return path


QUARTER = {"transformer.r": RANK, "transformer.lora_alpha": RANK // 4}


@pytest.mark.parametrize(
    ("case", "strength", "expected"),
    [
        ("plain", 1.0, "alpha=rank/out"),
        ("plain", 0.5, "alpha=rank/scale0.5/out"),
        ("keys", 1.0, "alpha=rank/4 by .alpha keys/out"),
        ("header", 1.0, "alpha=rank/4 by .alpha keys/out"),
        ("beside", 1.0, "alpha=rank/4 by .alpha keys/out"),
    ],
)
def test_published_layout(tmp_path: Path, case: str, strength: float, expected: str) -> None:
    weights = golden.adapter()
    if case == "keys":
        layers = {key.rsplit(".lora_", 1)[0] for key in weights}
        weights |= {f"{layer}.alpha": torch.tensor(RANK / 4) for layer in layers}
    if case == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": RANK // 4}))
    path = written(tmp_path, weights, {"lora_adapter_metadata": json.dumps(QUARTER)} if case == "header" else None)
    pipe = golden.pipeline()
    assert load_adapter(pipe, tmp_path if case == "plain" else path, strength) == 14
    torch.testing.assert_close(output(pipe), golden.tensors("lora")[expected], atol=5e-5, rtol=0)


def test_size_of_the_published_file() -> None:
    """FLUX.1-dev has 19 double and 38 single blocks; one block of each kind, without weights, gives the size of all."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
        assert add_adapter(network, rank=64, alpha=64) == 4 + 3
    learnt = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learnt) * (19 * 4 + 38 * 3) // (4 + 3) == 74_711_040


def test_plain_diffusers_reads_ours(tmp_path: Path) -> None:
    pipe = golden.pipeline()
    assert add_adapter(pipe.transformer, rank=3, alpha=6, dropout=0.5) == 14
    torch.testing.assert_close(output(pipe), golden.tensors("lora")["base_out"], atol=5e-5, rtol=0)
    learnt = {name: p for name, p in pipe.transformer.named_parameters() if p.requires_grad}
    for name, parameter in learnt.items():
        parameter.data = filled(name, tuple(parameter.shape), b=0.3)
    pipe.transformer.eval()
    expected = output(pipe)
    path = save_adapter(pipe.transformer, tmp_path / "adapter")
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]
    assert len(load_file(path)) == 28
    plain = golden.pipeline()
    plain.load_lora_weights(str(path.parent), weight_name=path.name)
    assert all(layer.p == 0 for layer in plain.transformer.modules() if isinstance(layer, torch.nn.Dropout))
    torch.testing.assert_close(output(plain), expected, atol=1e-5, rtol=0)
    again = golden.pipeline()
    load_adapter(again, path)
    torch.testing.assert_close(output(again), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["header", "beside"])
@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"to_out.0": 2, "transformer_blocks.0.attn.to_q": 1}},
        {"alpha_pattern": {"to_[qk]": 2}, "rank_pattern": {"to_v": 2}, "use_rslora": True},
    ],
)
def test_adapters_of_peft_keep_their_strength(tmp_path: Path, settings: dict[str, Any], place: str) -> None:
    pipe = golden.pipeline()
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"], **settings)
    pipe.transformer.add_adapter(config)
    for name, parameter in pipe.transformer.named_parameters():
        if parameter.requires_grad:
            parameter.data = filled(name, tuple(parameter.shape), b=0.3)
    path = save_adapter(pipe.transformer, tmp_path)
    if place == "beside":
        save_file(load_file(path), path)  # without its header
        config.save_pretrained(tmp_path)
    loaded = golden.pipeline()
    load_adapter(loaded, path)
    torch.testing.assert_close(output(loaded), output(pipe), atol=1e-5, rtol=0)


@pytest.mark.parametrize("beside", [None, 8])
def test_layers_without_alpha_are_not_given_that_of_others(tmp_path: Path, beside: int | None) -> None:
    """Alpha scales B: an adapter whose B is scaled, with alpha = rank, is the same."""
    weights = {key: value.clone() for key, value in golden.adapter().items()}
    alphas = {key.replace("lora_B.weight", "alpha"): torch.tensor(1.0) for key in weights if "to_q.lora_B" in key}
    path = written(tmp_path, weights | alphas)
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": beside}))
    pipe = golden.pipeline()
    assert load_adapter(pipe, path) == 14
    for key in weights:
        if "lora_B" in key:
            weights[key] *= 1 / RANK if "to_q" in key else (beside or RANK) / RANK
    (tmp_path / "scaled").mkdir()
    plain = golden.pipeline()
    plain.load_lora_weights(str(tmp_path / "scaled"), weight_name=written(tmp_path / "scaled", weights).name)
    torch.testing.assert_close(output(pipe), output(plain), atol=1e-5, rtol=0)


def test_an_existing_adapter_is_continued(tmp_path: Path) -> None:
    path = written(tmp_path, golden.adapter(), {"lora_adapter_metadata": json.dumps(QUARTER)})
    pipe = golden.pipeline()
    load_adapter(pipe, path)
    assert add_adapter(pipe.transformer, RANK, RANK / 4) == 14
    expected = golden.tensors("lora")["alpha=rank/4 by .alpha keys/out"]
    torch.testing.assert_close(output(pipe), expected, atol=5e-5, rtol=0)
    learnt = {name.replace(".default", "") for name, p in pipe.transformer.named_parameters() if p.requires_grad}
    assert {f"transformer.{name}" for name in learnt} == set(golden.adapter())
    saved = load_file(save_adapter(pipe.transformer, tmp_path / "saved"))
    assert all(torch.equal(saved[key], value) for key, value in golden.adapter().items())


@pytest.mark.parametrize(
    ("kept", "rank", "alpha", "sentence"),
    [
        ("", 8, 4, "has rank 4, but training asks for rank 8"),
        ("", RANK, 8, "has alpha 4, but training asks for alpha 8"),
        (
            r"to_[qv]",
            RANK,
            4,
            r"changes 8 layers \(attn.to_q, attn.to_v\), "
            r"but training changes 14 layers \(attn.to_k, attn.to_out.0, attn.to_q, attn.to_v\)",
        ),
    ],
)
def test_another_adapter_is_not_continued(tmp_path: Path, kept: str, rank: int, alpha: float, sentence: str) -> None:
    path = written(tmp_path, {key: value for key, value in golden.adapter().items() if re.search(kept, key)})
    pipe = golden.pipeline()
    load_adapter(pipe, path)
    before = {name: p.requires_grad for name, p in pipe.transformer.named_parameters()}
    with pytest.raises(InputError, match=sentence):
        add_adapter(pipe.transformer, rank, alpha)
    assert {name: p.requires_grad for name, p in pipe.transformer.named_parameters()} == before


def test_one_of_two_adapters_is_not_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, golden.adapter())
    pipe = golden.pipeline()
    load_adapter(pipe, path)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="second")
    with pytest.raises(InputError, match="has the adapters adapter, second: load only the one to train"):
        add_adapter(pipe.transformer, RANK, RANK)


def test_dropout_is_off_when_sampling(tmp_path: Path) -> None:
    settings = QUARTER | {"transformer.lora_dropout": 0.5, "transformer.target_modules": ["to_q", "to_k", "to_v"]}
    path = written(tmp_path, golden.adapter(), {"lora_adapter_metadata": json.dumps(settings)})
    pipe = golden.pipeline()
    load_adapter(pipe, path)
    assert not any(layer.training for layer in pipe.transformer.modules())


FIRST = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: {k.removeprefix("transformer."): v for k, v in w.items()}, "not of the form transformer.LAYER"),
        (lambda w: {k.replace(".weight", ".default.weight"): v for k, v in w.items()}, "name of a PEFT adapter"),
        (lambda w: {f"base_model.model.{k}": v for k, v in w.items()}, "not of the form transformer.LAYER"),
        (lambda w: w | {FIRST.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(48)}, "DoRA"),
        (lambda w: w | {FIRST: torch.ones(3, 48)}, "do not fit together"),
        (lambda w: {k: v for k, v in w.items() if k != FIRST}, "do not fit together"),
        (lambda w: {k.replace("blocks.1.", "blocks.7."): v for k, v in w.items()}, "does not have: use the right base"),
        (lambda w: {k: v[:, :20] if "lora_A" in k else v for k, v in w.items()}, "has 48 features: use the right base"),
        (lambda w: {}, "holds no adapter"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    path = written(tmp_path, {k: v.clone() for k, v in change(golden.adapter()).items()})
    with pytest.raises(InputError, match=sentence):
        load_adapter(golden.pipeline(), path)


def test_other_ranks_and_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, golden.adapter())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 8}))
    with pytest.raises(InputError, match="says rank 8, but has layers of rank 4"):
        read_adapter(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated"):
        read_adapter(path)
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        read_adapter(tmp_path / "nothing.safetensors")
    (tmp_path / "second.safetensors").touch()
    with pytest.raises(InputError, match=r"holds 2 \.safetensors files"):
        read_adapter(tmp_path)
