"""Convolutional encoders: what they compute, that they have no seam, and where their weights come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import CNNEncoder, ViTEncoder
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.zoo import load_model

GOLDEN = Path(__file__).parent / "golden" / "mtpano-small.rooms.check.safetensors"
SMALL = "test_efficientnet"  # timm's own miniature, 0.4 M parameters


def encoder_of(name: str, **options: Any) -> CNNEncoder:
    """An encoder without zero-initialised branches, which would hide what they compute, in evaluation mode."""
    encoder = CNNEncoder(name, **({"width": 8} | options))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def outputs_of(encoder: CNNEncoder, image: Tensor) -> list[Tensor]:
    maps, tokens = encoder(image)
    return [*maps, *tokens]


# What is computed


def test_a_trained_network_computes_what_its_trainer_computed() -> None:
    """The golden file holds taps and outputs of other code, which trained these weights; the whole network is in it."""
    network, golden = load_model("mtpano-small.rooms"), load_file(GOLDEN)
    assert isinstance(network, PDBridgeNet) and isinstance(network.encoder, CNNEncoder)
    taps: list[Tensor] = []
    network.encoder.register_forward_hook(lambda module, inputs, output: taps.extend(output[0]))
    with torch.inference_mode():
        outputs = network(golden["in"])
    computed = {f"act.tap{i}": tap for i, tap in enumerate(taps)}
    computed |= {f"out.{task}": outputs[task] for task in network.tasks}
    computed |= {f"out.aux.{task}": outputs["aux"][task] for task in network.tasks}
    assert computed.keys() == golden.keys() - {"in"}
    for name, expected in golden.items():
        if name != "in":
            torch.testing.assert_close(computed[name], expected, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", ["resnet18", SMALL])
def test_away_from_the_seam_it_computes_what_timm_does(name: str) -> None:
    """Only what lies within reach of the border differs from the network that was wrapped."""
    options = {"features_only": True, "out_indices": (1,)}
    plain = timm.create_model(name, **options).eval()
    encoder = CNNEncoder(name, width=8, stride=4).eval()
    first = {key: value for key, value in plain.state_dict().items() if key in encoder.cnn.state_dict()}
    encoder.cnn.load_state_dict(first, strict=False)
    image = torch.rand(1, 3, 64, 256)
    with torch.no_grad():
        (expected,), found = plain(image), encoder.cnn(image)[0]
    assert encoder.reductions[0] == 4 and found.shape == expected.shape
    torch.testing.assert_close(found[..., 12:-12], expected[..., 12:-12])
    assert not torch.allclose(found[..., :1], expected[..., :1], atol=1e-4)


@pytest.mark.parametrize(("stride", "size"), [(4, (16, 32)), (8, (8, 16)), (32, (2, 4)), (64, (1, 2))])
def test_maps_of_one_grid_and_tokens_that_are_their_means(stride: int, size: tuple[int, int]) -> None:
    encoder = encoder_of(SMALL, stride=stride)
    assert (encoder.channels, encoder.stride, encoder.multiple) == (8, stride, max(stride, 32))
    maps, tokens = encoder(torch.rand(2, 3, 64, 128))
    assert [tuple(x.shape) for x in maps] == [(2, 8, *size)] * 4
    for x, token in zip(maps, tokens, strict=True):
        torch.testing.assert_close(token, x.mean((2, 3)))


def test_taps_are_averaged_or_enlarged_bilinearly_across_the_seam() -> None:
    encoder = encoder_of(SMALL, stride=8)
    image = torch.rand(1, 3, 64, 128)
    taps = [project(tap) for project, tap in zip(encoder.project, encoder.cnn(image), strict=True)]
    maps, _ = encoder(image)
    torch.testing.assert_close(maps[0], taps[0].unflatten(2, (8, 2)).unflatten(4, (16, 2)).mean((3, 5)))
    assert torch.equal(maps[1], taps[1])
    for x, tap in zip(maps[2:], taps[2:], strict=True):
        three_turns = F.interpolate(tap.repeat(1, 1, 1, 3), (8, 48), mode="bilinear", align_corners=False)
        torch.testing.assert_close(x, three_turns[..., 16:32])


@pytest.mark.parametrize("columns", [32, 96])
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "resnet50d", "densenet121"])
def test_turning_the_panorama_turns_the_maps_exactly(name: str, columns: int) -> None:
    """With plain, strided and dilated convolutions, TensorFlow's padding, max-pools and average-pools."""
    encoder = encoder_of(name)
    image = torch.rand(1, 3, 64, 128)
    with torch.inference_mode():
        straight, turned = encoder(image), encoder(image.roll(columns, -1))
    for before, after in zip(straight[0], turned[0], strict=True):
        shifted = before.roll(columns // encoder.stride, -1)
        torch.testing.assert_close(after, shifted, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    for before, after in zip(straight[1], turned[1], strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


# Training


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("taps", [(1, 2, 3, 4), (0, 1, 2, 3)])
def test_every_parameter_gets_a_gradient(name: str, taps: tuple[int, ...]) -> None:
    encoder = encoder_of(name, taps=taps).train()
    sum((x * torch.randn_like(x)).sum() for x in outputs_of(encoder, torch.rand(2, 3, 64, 128))).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_norms_do_not_move(freeze: bool) -> None:
    encoder = encoder_of("resnet18", freeze_norms=freeze)
    assert not any(module.training for module in encoder.modules())
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    nn.Sequential(encoder).train()  # as the network that it is a part of is switched
    assert encoder.training and encoder.cnn.training
    encoder(torch.rand(2, 3, 64, 128))
    moved = {name for name, buffer in encoder.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == (set() if freeze else set(before))
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    plain = encoder_of(name).train()
    twin = CNNEncoder(name, width=8).train()
    twin.load_state_dict(plain.state_dict())
    twin.set_gradient_checkpointing(True)
    image, kept = torch.rand(2, 3, 32, 64), []
    for encoder in (plain, twin):
        sizes: list[int] = []
        weights = {parameter.data_ptr() for parameter in encoder.parameters()}

        def keep(x: Tensor, sizes: list[int] = sizes, weights: set[int] = weights) -> Tensor:
            sizes.append(0 if x.data_ptr() in weights else x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            outputs = outputs_of(encoder, image)
        sum(x.square().mean() for x in outputs).backward()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
    for (key, before), after in zip(plain.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(after.grad, before.grad, rtol=1e-5, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")


# Pretrained weights


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """Weights of a whole ImageNet network by timm's names, none of them as a new network has it."""
    state = timm.create_model(SMALL).state_dict()
    return {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()}


def save(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_pretrained_weights_by_their_names(whole: dict[str, Tensor], suffix: str, tmp_path: Path) -> None:
    shuffled = dict(reversed(without_counters(whole).items()))
    del shuffled["classifier.weight"]  # what was fine-tuned to other classes has another one, and none is needed
    encoder = CNNEncoder(SMALL, pretrained=save(shuffled, tmp_path / f"image_net.{suffix}"))
    own = without_counters(encoder.cnn.state_dict())
    assert len(own) > 50 and all(torch.equal(value, whole[key]) for key, value in own.items())
    assert encoder.config["name"] == SMALL and "pretrained" not in encoder.config


def test_pretrained_weights_by_timms_order(whole: dict[str, Tensor], tmp_path: Path) -> None:
    renamed = {f"features.{i}": value for i, value in enumerate(without_counters(whole).values())}
    encoder = CNNEncoder(SMALL, pretrained=str(save(renamed, tmp_path / "image_net.pth")))  # keeps the order
    own = without_counters(encoder.cnn.state_dict())
    assert all(torch.equal(value, whole[key]) for key, value in own.items())


def test_pretrained_weights_where_timm_names_features_otherwise(tmp_path: Path) -> None:
    """`stages_0` of the features is `stages.0` of the whole network."""
    state = {k: torch.rand_like(v) for k, v in timm.create_model("test_convnext").state_dict().items()}
    path = save(state, tmp_path / "image_net.safetensors")
    encoder = CNNEncoder("test_convnext", pretrained=path, taps=(0, 1, 2, 3))
    own = encoder.cnn.state_dict()
    assert "stages_0.blocks.0.conv_dw.weight" in own
    for key, value in own.items():
        assert torch.equal(value, state[key.replace("stem_", "stem.").replace("stages_", "stages.")]), key


def changed(state: dict[str, Tensor], what: str) -> Any:
    if what == "missing":
        return {key: value for key, value in state.items() if key != "blocks.1.0.conv_exp.weight"}
    if what == "reshaped":
        return state | {"blocks.1.0.conv_exp.weight": torch.zeros(1)}
    if what == "another network":
        return timm.create_model("test_resnet").state_dict()
    if what == "as many in another order":
        return {f"features.{i}": x for i, x in enumerate(reversed(without_counters(state).values()))}
    return {"epoch": 3, "model": state} if what == "nested" else [1, 2]


@pytest.mark.parametrize(("what", "sentence"), [
    ("missing", r"does not hold the weights of .*: missing or of another shape: blocks\.1\.0\.conv_exp\.weight\.$"),
    ("reshaped", r"missing or of another shape: blocks\.1\.0\.conv_exp\.weight\.$"),
    ("another network", r"missing or of another shape: conv_stem\.weight, .* and \d+ more\.$"),
    ("as many in another order", "missing or of another shape: "),
    ("nested", "is not a state dict of tensors"),
    ("list", "is not a state dict of tensors"),
])  # fmt: skip
def test_files_of_other_weights_are_refused(whole: dict[str, Tensor], what: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(changed(whole, what), path)
    with pytest.raises(InputError, match=sentence) as caught:
        CNNEncoder(SMALL, pretrained=path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_that_are_missing_or_damaged(whole: dict[str, Tensor], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image_net.{suffix}"
    with pytest.raises(FileNotFoundError, match=rf"no file of pretrained weights at .*image_net\.{suffix}"):
        CNNEncoder(SMALL, pretrained=path)
    content = save(whole, path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"image_net\.{suffix} cannot be read as a file of weights"):
        CNNEncoder(SMALL, pretrained=path)


# What is refused


@pytest.mark.parametrize("encoder", [CNNEncoder, ViTEncoder])
@pytest.mark.parametrize("name", ["hf-hub:x/y", "local-dir:/etc", "hf_hub:timm/resnet18.a1_in1k", "resnet18x", ""])
def test_names_that_are_addresses_are_refused_without_looking(
    encoder: Callable[..., nn.Module], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was looked up")

    for function in ("socket.getaddrinfo", "builtins.open", "pathlib.Path.open", "timm.create_model"):
        monkeypatch.setattr(function, reached)
    with pytest.raises(InputError, match=r"timm has no architecture '.*'; `timm\.list_models\(\)` lists them"):
        encoder(name)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"stride": 12}, r"^stride must divide the taps' strides, \[4, 8, 16, 32\], or be a multiple, not 12\.$"),
    ({"stride": 0}, r"or be a multiple, not 0\.$"),
    ({"taps": (1, 2, 3)}, r"^taps must be four indices, not \[1, 2, 3\]\.$"),
    ({"taps": (1, 2, 3, 9)}, r"^timm cannot build 'resnet18' with features_only=True, out_indices=\(1, 2, 3, 9\): .*"),
    ({"name": "vit_tiny_patch16_224"}, r"^'vit_tiny_patch16_224' is not a convolutional network: use a ViTEncoder"),
    ({"name": "resnetblur18"}, "'resnetblur18' has layers of the type BlurPool2d that cannot be wrapped"),
    ({"name": "test_nfnet"}, "'test_nfnet' has layers of the type ScaledStdConv2d that cannot be wrapped"),
    ({"name": "res2net50_26w_4s"}, "'res2net50_26w_4s' has layers of the type AvgPool2d that cannot be wrapped"),
    ({"name": "ese_vovnet19b_dw"}, "'ese_vovnet19b_dw' has layers of the type MaxPool2d that cannot be wrapped"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        CNNEncoder(**({"name": "resnet18"} | options))
    assert "\n" not in str(caught.value)
