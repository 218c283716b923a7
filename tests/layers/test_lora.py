import pytest
import torch
from timm.models.xcit import Xcit
from torch.testing import assert_close

from mtpano_zoo.layers import ViTEncoder, add_lora, merge_lora

SIZES = {"width": 32, "depth": 4, "heads": 2, "patch_size": 8}


@pytest.fixture(params=["vit_small_patch16_dinov3_qkvb", "xcit_nano_12_p8_224"])
def encoder(request):
    return build(request.param)


def build(name):
    return ViTEncoder(name, layer_scale=None if "xcit" in name else 1.0, **SIZES).eval()


def test_nothing_changes_until_something_is_learnt(encoder):
    image = torch.rand(1, 3, 32, 64)
    before, _ = encoder(image)
    add_lora(encoder, 4)
    after, _ = encoder(image)
    assert_close(after, before, rtol=0, atol=0)


def test_only_the_updates_learn_and_there_are_two_per_attention_layer(encoder):
    layers = [name for name, _ in encoder.named_parameters() if ".attn." in name and name.endswith("weight")]
    layers = [name for name in layers if encoder.get_parameter(name).ndim == 2]
    add_lora(encoder, 4)
    trainable = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * len(layers) == 16
    for p in trainable.values():
        torch.nn.init.normal_(p)  # an update that starts at zero gives its other half no gradient
    sum(level.square().mean() for level in encoder(torch.rand(1, 3, 32, 64))[0]).backward()
    assert all(p.grad.abs().max() > 0 for p in trainable.values())
    assert all(p.grad is None for p in encoder.parameters() if not p.requires_grad)


def test_merged_weights_give_the_plain_encoder_what_the_adapted_one_computes(encoder):
    names = encoder.state_dict().keys()
    plain = build("xcit_nano_12_p8_224" if isinstance(encoder.vit, Xcit) else "vit_small_patch16_dinov3_qkvb")
    add_lora(encoder, 4)
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2 if name.endswith("up") else 0.5)
    merged = merge_lora(encoder.state_dict())
    assert merged.keys() == names
    plain.load_state_dict(merged)
    image = torch.rand(2, 3, 32, 64)
    assert_close(plain(image)[0], encoder(image)[0], rtol=1e-4, atol=1e-5)


def test_weights_without_updates_merge_to_themselves(encoder):
    weights = encoder.state_dict()
    assert all(merge_lora(weights)[name] is value for name, value in weights.items())


@pytest.mark.parametrize("rank", [0, 32])
def test_refuses_a_rank_that_does_not_fit(encoder, rank):
    with pytest.raises(ValueError, match="from 1 to 31"):
        add_lora(encoder, rank)


def test_refuses_a_module_without_attention():
    with pytest.raises(ValueError, match="no attention"):
        add_lora(torch.nn.Linear(3, 3), 1)
