"""The students of Depth Anywhere (arXiv 2406.12849): plain state dicts to our networks with `convention="paper"`.

Which keys a published state dict must have, and in which shapes, follows from our own network of the same sizes, whose
names are translated into the published ones. What the published files store of the geometry is compared with ours and
left out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.models import PanoramaNetwork, UniFuse
from mtpano_zoo.reference.format import Format

__all__ = ("FORMATS",)

State = Mapping[str, Tensor]
LISTED = 8  # keys that a message names before it counts the rest
TOLERANCE = 1e-5  # of stored coordinates, which go up to the width of a face
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""ResNets by the blocks of their stages and whether these have three convolutions."""


@dataclass(frozen=True)
class _Student:
    """How one network was published.

    Attributes:
        name: what messages call it.
        network: our class of it.
        prefixes: beginnings of keys that every such state dict has between them.
        renames: our names to the published ones, applied one after the other.
        arguments: published state dict to the arguments of our network.
        constants: network and published state dict to what the file must hold beside the weights, by published name.
        unused: published names of weights that the published network never uses, each with that of another of its
            shape.
    """

    name: str
    network: type[PanoramaNetwork]
    prefixes: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    arguments: Callable[[State], dict[str, Any]]
    constants: Callable[[PanoramaNetwork, State], dict[str, Tensor]]
    unused: tuple[tuple[str, str], ...] = ()

    def describe(self, state: State) -> dict[str, Any]:
        """Read off a published state dict which network it belongs to."""
        if missing := [prefix for prefix in self.prefixes if not any(key.startswith(prefix) for key in state)]:
            raise InputError(f"This is no {self.name} checkpoint: it lacks keys that start with {', '.join(missing)}.")
        return {
            "class_path": self.network.__name__,
            "init_args": {"convention": "paper", **self.arguments(state)},
        }

    def convert(self, state: State) -> dict[str, Tensor]:
        """Turn a published state dict into that of the network that `describe` returns."""
        arguments = self.describe(state)["init_args"]
        network = self.network(**arguments)
        own = network.state_dict()
        names = {key: self.published_name(key) for key in own}
        expected = {published: own[key].shape for key, published in names.items()}
        expected |= {unused: expected[like] for unused, like in self.unused}
        constants = self.constants(network, state)
        self.check_keys(state, expected | {key: value.shape for key, value in constants.items()})
        for key, value in constants.items():
            difference = (state[key].double() - value.double()).abs().max().item() if value.numel() else 0.0
            if not difference <= TOLERANCE * max(1.0, value.abs().max().item() if value.numel() else 0.0):
                raise InputError(
                    f"{key} of this {self.name} checkpoint differs by up to {difference:.2g} from what the geometry of "
                    f"{self.network.__name__} says: its weights were trained with other coordinates."
                )
        converted = {key: state[published] for key, published in names.items()}
        return {key: value.float() if value.is_floating_point() else value for key, value in converted.items()}

    def published_name(self, own: str) -> str:
        """Give the published name of one of our keys."""
        for pattern, replacement in self.renames:
            own = re.sub(pattern, replacement, own)
        return own

    def check_keys(self, state: State, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a state dict whose keys or shapes are not those expected."""
        reshaped = [
            f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
            for key, shape in expected.items()
            if key in state and state[key].shape != shape
        ]
        found = {
            "missing": sorted(expected.keys() - state.keys()),
            "unexpected": sorted(state.keys() - expected.keys()),
            "of another shape": reshaped,
        }
        problems = [
            f"{what} {', '.join(keys[:LISTED])}" + (f" and {len(keys) - LISTED} more" if len(keys) > LISTED else "")
            for what, keys in found.items()
            if keys
        ]
        if problems:
            raise InputError(
                f"The keys of this {self.name} checkpoint do not make up its network: {'; '.join(problems)}."
            )

    def format(self) -> Format:
        """Return it as one of the formats of the zoo."""
        return Format(f"{self.name} checkpoint", self.prefixes, self.describe, self.convert)


def _resnet(state: State, prefix: str, name: str) -> str:
    """Read off the keys that start with `prefix` which ResNet they are of."""
    blocks = [{key.split(".")[0] for key in _after(state, f"{prefix}layer{stage}.")} for stage in range(1, 5)]
    three = f"{prefix}layer1.0.conv3.weight" in state or f"{prefix}layer1.0.conv3.1.weight" in state
    counts = tuple(len(found) for found in blocks)
    if (counts, three) not in RESNETS:
        raise InputError(f"The stages of {prefix} have {counts} blocks, which is no ResNet that {name} was built of.")
    return RESNETS[counts, three]


def _after(state: State, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _shape(state: State, key: str, dimensions: int, name: str) -> tuple[int, ...]:
    """Return the shape of a tensor that a size is read off."""
    if key not in state or state[key].ndim != dimensions:
        raise InputError(f"This {name} checkpoint lacks {key}, which a size of its network is read off.")
    return tuple(state[key].shape)


def _unifuse_arguments(state: State) -> dict[str, Any]:
    *_, height, width, _ = _shape(state, "projectors.0.sample_grid", 5, "UniFuse")
    _shape(state, "max_depth", 0, "UniFuse")
    return {
        "encoder": _resnet(state, "equi_encoder.", "UniFuse"),
        "input_size": [32 * height, 32 * width],
        "maximum": round(state["max_depth"].item(), 6),
    }


def _unifuse_constants(network: PanoramaNetwork, state: State) -> dict[str, Tensor]:
    """Sampling grids, coarsest first: column and row from -1 to 1, and the face likewise."""
    height, width = network.input_size
    grids = {"max_depth": state["max_depth"]}
    for i in range(5):
        size, h, w = (side // 2 ** (5 - i) for side in (height // 2, height, width))
        face, pixels = sphere.pixels_of_erp(h, w, size, "unifuse")
        grid = torch.cat((pixels * 2 / max(size - 1, 1) - 1, face[..., None] / 2.5 - 1), dim=-1)
        grids[f"projectors.{i}.sample_grid"] = grid[None, None]
    return grids


# Our levels of the decoder to the places of the published list of its modules.
UNIFUSE_FUSIONS = {4: 0, 3: 2, 2: 5, 1: 8, 0: 11}
UNIFUSE_CONVOLUTIONS = {
    **{rf"enlarge\.{i}\.0": place for i, place in {4: 1, 3: 4, 2: 7, 1: 10, 0: 13}.items()},
    **{rf"merges\.{i}\.0": place for i, place in {3: 3, 2: 6, 1: 9, 0: 12}.items()},
    r"refine\.0": 14,
}
UNIFUSE = _Student(
    "UniFuse",
    UniFuse,
    ("equi_encoder.", "cube_encoder.", "equi_decoder.", "projectors."),
    (
        (r"^encoders\.erp\.", "equi_encoder."),
        (r"^encoders\.cube\.", "cube_encoder."),
        *((rf"^fusions\.{level}\.", f"equi_decoder.{place}.") for level, place in UNIFUSE_FUSIONS.items()),
        (r"^(equi_decoder\.\d+)\.conv([12])\.", r"\1.res_conv\2."),
        (r"^(equi_decoder\.\d+)\.norm([12])\.", r"\1.res_bn\2."),
        (r"^(equi_decoder\.\d+)\.squeeze\.", r"\1.selayer.fc.0."),
        (r"^(equi_decoder\.\d+)\.excite\.", r"\1.selayer.fc.2."),
        (r"^(equi_decoder\.\d+)\.join\.", r"\1.conv."),
        *((rf"^{own}\.", f"equi_decoder.{place}.conv.conv.") for own, place in UNIFUSE_CONVOLUTIONS.items()),
        (r"^predict_distance\.", "equi_decoder.15.conv."),
    ),
    _unifuse_arguments,
    _unifuse_constants,
)

FORMATS: dict[str, Format] = {"unifuse": UNIFUSE.format()}
