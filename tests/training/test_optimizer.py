import pytest
import torch
from tiny_training import TinyNetwork
from torch import nn

from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.training.optimizer import parameter_groups


def groups_by_name(module, **options):
    options = {"lr": 1e-3, "encoder_lr": 1e-4, "weight_decay": 0.1} | options
    return {group["name"]: group for group in parameter_groups(module, **options)}


@pytest.mark.parametrize("bridgenet", [False, True])
def test_every_trainable_parameter_is_in_exactly_one_group(bridgenet, tiny_network):
    module = MultiTaskModule(tiny_network() if bridgenet else TinyNetwork())
    next(module.network.heads.parameters()).requires_grad_(False)
    grouped = [id(p) for group in groups_by_name(module).values() for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in module.parameters() if p.requires_grad}


def test_groups_have_the_right_rates_and_members():
    module = MultiTaskModule(TinyNetwork())
    groups = groups_by_name(module)
    names = {id(p): name for name, p in module.network.named_parameters()}
    members = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert members["encoder/decay"] == {"encoder.0.weight"}
    assert members["encoder/no_decay"] == {"encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}
    assert {"gamma", "neck.1.weight", "heads.depth.bias"} <= members["new/no_decay"]
    assert {"neck.0.weight", "heads.depth.weight"} <= members["new/decay"]  # (1, C, 1, 1) is still a weight
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "encoder/decay": (1e-4, 0.1),
        "encoder/no_decay": (1e-4, 0.0),
        "new/decay": (1e-3, 0.1),
        "new/no_decay": (1e-3, 0.0),
    }


def test_tokens_positions_and_layer_scales_of_a_vision_transformer_do_not_decay(tiny_network):
    module = MultiTaskModule(tiny_network())
    names = {id(p): name for name, p in module.network.named_parameters()}
    decaying = [
        names[id(p)] for name, g in groups_by_name(module).items() if name.endswith("/decay") for p in g["params"]
    ]
    assert any("qkv" in name for name in decaying)
    undecayed = ("bias", "gamma", "token", "norm1", "norm2", "pos_embed")
    assert not [name for name in decaying if any(word in name for word in undecayed)]


def test_a_shared_parameter_is_counted_once_and_a_frozen_encoder_has_no_group():
    network = TinyNetwork()
    network.heads["depth"].weight = network.auxiliary_heads["depth"].weight
    groups = groups_by_name(MultiTaskModule(network, freeze_encoder=True))
    assert set(groups) == {"new/decay", "new/no_decay"}
    assert sum(p is network.heads["depth"].weight for p in groups["new/decay"]["params"]) == 1


def test_attention_weights_decay():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.MultiheadAttention(4, 1)

    groups = groups_by_name(Attention())
    assert {tuple(p.shape) for p in groups["new/decay"]["params"]} == {(12, 4), (4, 4)}
    assert all(isinstance(p, torch.nn.Parameter) for p in groups["new/no_decay"]["params"])
