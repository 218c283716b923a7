"""A base is loaded whole or refused, in the memory that there is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_hub import HubServer
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from tiny_flux import tiny_flux

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.adapters import add_adapter, save_adapter
from mtpano_zoo.generation.loading import load_generator, show_licence
from mtpano_zoo.generation.tiny import TinyFlux
from mtpano_zoo.zoo.entries import generators


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    made = tiny_flux()
    made.pipeline.save_pretrained(tmp_path)
    options = {"height": 32, "width": 64, "steps": 2}
    loaded = load_generator(tmp_path, device="cpu")
    assert (made.generate("a room", **options) == loaded.generate("a room", **options)).all()
    image = torch.rand(1, 3, 32, 64)
    assert torch.allclose(loaded.decode(loaded.encode(image)), image, atol=1e-6)


def test_tokens_that_are_read() -> None:
    small = TinyFlux(width=32, double_blocks=1, single_blocks=1, text_width=16, text_layers=1, max_tokens=600)
    assert small.max_tokens == 256  # as FLUX.1-schnell, it knows no guidance
    small.pipeline.transformer.register_to_config(guidance_embeds=True)
    assert small.max_tokens == 512


def deeper(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 2}))


def renamed(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(path.read_text().replace("FluxTransformer2DModel", "Flux2Transformer2DModel"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder / "tokenizer_2"), "has no tokenizer_2: copy the whole folder"),
        (deeper, r"lacks the weights transformer_blocks\.1.* and \d+ more: copy the folder again"),
        (renamed, r"has a Flux2Transformer2DModel, not the transformer of FLUX\.1"),
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
    ],
)
def test_bases_that_are_not_whole(base: Path, tmp_path: Path, change: Callable[[Path], None], sentence: str) -> None:
    shutil.copytree(base, tmp_path / "other")
    change(tmp_path / "other")
    with pytest.raises(InputError, match=sentence):
        load_generator(tmp_path / "other", device="cpu")


def test_a_download_that_was_stopped_goes_on(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(base, tmp_path / "cached", ignore=shutil.ignore_patterns("tokenizer_2"))
    index = str(tmp_path / "cached" / "model_index.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: index)

    def offline(*_: object, **options: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr("diffusers.FluxPipeline.from_pretrained", offline)
    with pytest.raises(InputError, match="has no tokenizer_2"):
        load_generator("some/base", device="cpu")
    with pytest.raises(InputError, match="there is no network"):
        load_generator("some/base", device="cpu", download=True)


def test_the_weights_are_not_touched(base: Path) -> None:
    before = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    generator = load_generator(base, device="cpu")
    generator.generate("a room", height=32, width=64, steps=1)
    after = generator.pipeline.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_offloaded_groups_give_the_same(base: Path) -> None:
    options = {"height": 32, "width": 64, "steps": 2}
    expected = load_generator(base, device="cpu").generate("a room", **options)
    offloaded = load_generator(base, device="cpu")
    offloaded.pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert (offloaded.generate("a room", **options) == expected).all()


def test_too_little_memory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 24 GB")

    generator = load_generator(base, device="cpu")
    monkeypatch.setattr(generator.pipeline.transformer, "forward", full)
    with pytest.raises(InputError, match=r"the weights alone take .* --offload model needs"):
        generator.generate("a room", height=32, width=64, steps=1)
    for text, error in (("DefaultCPUAllocator: can't allocate memory", InputError), ("another bug", RuntimeError)):
        with pytest.raises(error), generator.enough_memory():
            raise RuntimeError(text)
    monkeypatch.setattr(type(generator.pipeline), "to", full)
    with pytest.raises(InputError, match="the weights alone take"):
        load_generator(base, device="cpu")
    count = sum(value.numel() for path in base.rglob("*.safetensors") for value in load_file(path).values())
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=0))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=4 * count - 1))
    with pytest.raises(InputError, match=r"take .* GB in torch.float32, and .* GB of main memory are free: in 4 bits"):
        load_generator(base, device="cpu")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=4 * count))
    with pytest.raises(InputError, match="the weights alone take"):  # they are read
        load_generator(base, device="cpu")


def test_damaged_weights_make_no_panorama(base: Path, tmp_path: Path) -> None:
    generator = load_generator(base, device="cpu")
    generator.pipeline.transformer.x_embedder.weight.requires_grad_(False)[0, 0] = torch.nan
    with pytest.raises(InputError, match="values that are not finite"):
        generator.generate("a room", height=32, width=64, steps=1)


def test_published_adapter_is_loaded_by_its_name(
    base: Path, tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture
) -> None:
    plain = load_generator(base, device="cpu")
    transformer = plain.pipeline.transformer
    add_adapter(transformer, 2, 2.0)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    entry = generators()["dit360.flux-dev-lora"]
    hub.commit(entry.repository, {entry.file: save_adapter(transformer, tmp_path).read_bytes()})
    with pytest.raises(InputError, match="is not in the cache: add --download"):
        load_generator(base, "dit360.flux-dev-lora", device="cpu")
    assert hub.requests == []
    hf_hub_download(entry.repository, entry.file)  # as `hf download` does
    hub.commit(entry.repository, {entry.file: b"a newer one"})
    hub.requests.clear()
    loaded = load_generator(base, "dit360.flux-dev-lora", device="cpu")
    assert hub.requests == []
    assert loaded.prefix == "This is a panorama. The image shows "
    show_licence(base, "dit360.flux-dev-lora")
    assert "adapter dit360.flux-dev-lora: licence unknown" in capsys.readouterr().err
    assert sum(hasattr(layer, "lora_A") for layer in loaded.pipeline.transformer.modules()) == 7
