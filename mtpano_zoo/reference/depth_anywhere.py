"""Convert the students of Depth Anywhere (arXiv 2406.12849) to our networks with `convention="paper"`.

The keys and shapes that a published state dict must have are derived from our own network of the same sizes, whose
names are translated into the published ones. The geometry that the published files store is compared with ours and left
out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.models import BiFuse, EGformer, HoHoNet, PanoramaNetwork, UniFuse
from mtpano_zoo.models.hohonet import cosines, sinusoids
from mtpano_zoo.reference.format import Format
from mtpano_zoo.reference.keys import Renames, check_keys, check_prefixes, renamed

__all__ = ("FORMATS",)

State = Mapping[str, Tensor]
TOLERANCE = 1e-5  # for stored coordinates, besides their rounding, relative to the largest if that exceeds 1
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""ResNets by the number of blocks in their stages and whether a block has three convolutions."""


@dataclass(frozen=True)
class _Student:
    """One network as it was published.

    Attributes:
        name: its name in messages.
        network: our class for it.
        prefixes: prefixes of which each begins at least one key of every such state dict.
        renames: our names to the published ones, applied one after the other.
        arguments: returns the arguments of our network from a published state dict.
        constants: returns, from our network and a published state dict, what the file must hold besides the weights, by
            published name.
        unused: published names of weights that the published network never uses, each with the name of another weight
            of the same shape.
    """

    name: str
    network: type[PanoramaNetwork]
    prefixes: tuple[str, ...]
    renames: Renames
    arguments: Callable[[State], dict[str, Any]]
    constants: Callable[[PanoramaNetwork, State], dict[str, Tensor]]
    unused: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """The name of its files in messages."""
        return f"{self.name} checkpoint"

    def describe(self, state: State) -> dict[str, Any]:
        """Describe the network that a published state dict belongs to."""
        check_prefixes(self.title, state, self.prefixes)
        return {
            "class_path": self.network.__name__,
            "init_args": {"convention": "paper", **self.arguments(state)},
        }

    def convert(self, state: State) -> dict[str, Tensor]:
        """Turn a published state dict into that of the network that `describe` returns."""
        arguments = self.describe(state)["init_args"]
        network = self.network(**arguments)
        own = network.state_dict()
        names = {key: renamed(key, self.renames) for key in own}
        expected = {published: own[key].shape for key, published in names.items()}
        expected |= {unused: expected[like] for unused, like in self.unused}
        constants = self.constants(network, state)
        expected |= {key: value.shape for key, value in constants.items()}
        check_keys(self.title, state, expected, constants=constants)
        for key, value in constants.items():
            stored = state[key]
            difference = (stored.double() - value.double()).abs().max().item()
            rounding = torch.finfo(stored.dtype).eps / 2 if stored.is_floating_point() else 0.0
            if not difference <= (TOLERANCE + rounding) * max(1.0, value.double().abs().max().item()):
                raise InputError(
                    f"{key} of this {self.title} differs by up to {difference:.2g} from what the geometry of "
                    f"{self.network.__name__} says: its weights were trained with other coordinates."
                )
        converted = {key: state[published] for key, published in names.items()}
        return {key: value.float() if value.is_floating_point() else value for key, value in converted.items()}

    def format(self) -> Format:
        """Return this student as one of the formats of the zoo."""
        return Format(self.title, self.prefixes, self.describe, self.convert)


def _resnet(state: State, prefix: str, name: str) -> str:
    """Return which ResNet the keys that start with `prefix` belong to."""
    blocks = [{key.split(".")[0] for key in _after(state, f"{prefix}layer{stage}.")} for stage in range(1, 5)]
    three = f"{prefix}layer1.0.conv3.weight" in state or f"{prefix}layer1.0.conv3.1.weight" in state
    counts = tuple(len(found) for found in blocks)
    if (counts, three) not in RESNETS:
        raise InputError(f"The stages of {prefix} have {counts} blocks, but no ResNet of {name} has these.")
    return RESNETS[counts, three]


def _after(state: State, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _shape(state: State, key: str, dimensions: int, name: str) -> tuple[int, ...]:
    """Return the shape of a tensor from which a size is read."""
    if key not in state or state[key].ndim != dimensions:
        raise InputError(f"This {name} checkpoint lacks {key}, from which a size of its network is read.")
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
    """Return the sampling grids, coarsest first: column, row and face, each from -1 to 1."""
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

# The published network stores the coordinates of all levels under each of the modules that use them.
BIFUSE_STORES = ("dnet.ce.", *(f"dnet.f{i}.CE." for i in range(1, 5)))


def _bifuse_arguments(state: State) -> dict[str, Any]:
    heights = [int(key.split("(")[1].split(",")[0]) for key in _after(state, "dnet.ce.e2c.") if "(" in key]
    if not heights:
        raise InputError("This BiFuse++ checkpoint lacks dnet.ce.e2c, from which the size of its network is read.")
    return {
        "encoder": _resnet(state, "dnet.resnet_equi.", "BiFuse++"),
        "input_size": [max(heights), 2 * max(heights)],
    }


def _bifuse_constants(network: PanoramaNetwork, state: State) -> dict[str, Tensor]:
    """Return, for every height down to the coarsest, grids of the faces and masks and coordinates of the panorama."""
    del state
    constants = {}
    for height in (network.input_size[0] // 2**i for i in range(7)):
        if height < 4:  # the published code divides by one less than the columns of a face
            break
        size, width = height // 2, 2 * height
        scale = torch.tensor((width - 1, height - 1), dtype=torch.float64)
        grids = sphere.pixels_of_faces(size, height, width, "bifuse") * 2 / scale - 1
        face, pixels = sphere.pixels_of_erp(height, width, size, "bifuse")
        for i in range(6):
            constants[f"e2c.({height},{width}).grid_{i}"] = grids[i][None]
            constants[f"c2e.({size}).mask_{i}"] = face == i
            constants[f"c2e.({size}).XY_{i}"] = pixels[face == i]
    return {store + key: value for store in BIFUSE_STORES for key, value in constants.items()}


BIFUSE = _Student(
    "BiFuse++",
    BiFuse,
    ("dnet.resnet_equi.", "dnet.resnet_cube.", "dnet.deconv1.", "dnet.ce."),
    (
        (r"^encoders\.erp\.", "dnet.resnet_equi."),
        (r"^encoders\.cube\.", "dnet.resnet_cube."),
        *((rf"^fusions\.{i}\.", f"dnet.f{i + 1}.") for i in range(4)),
        (r"^(dnet\.f\d)\.join\.", r"\1.conv_cat."),
        (r"^(dnet\.f\d)\.for_erp\.", r"\1.conv_equi_cat."),
        (r"^(dnet\.f\d)\.for_cube\.", r"\1.conv_cube_cat."),
        *((rf"^decoders\.{i}\.", f"dnet.deconv{i + 1}.0.") for i in range(4)),
        (r"^predict_distance\.", "dnet.deconv1.2."),
    ),
    _bifuse_arguments,
    _bifuse_constants,
    # What the last fusion would return to branches that end there.
    tuple(
        (f"dnet.f4.{branch}.{rest}", f"dnet.f4.conv_cat.{rest}")
        for branch in ("conv_equi_cat", "conv_cube_cat")
        for rest in (
            *(f"{i}.{name}" for i in (0, 1) for name in ("weight", "bias")),
            *(f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
        )
    ),
)


def _hohonet_arguments(state: State) -> dict[str, Any]:
    components, height = _shape(state, "modalities.0.basis", 2, "HoHoNet")
    embedding, width, _ = _shape(state, "emb_shared_latent.1.1.weight", 3, "HoHoNet")
    return {
        "encoder": _resnet(state, "encoder.encoder.", "HoHoNet"),
        "height": height,
        "input_size": [height, 2 * height],
        "width": width,
        "embedding": embedding,
        "components": components,
    }


def _hohonet_constants(network: PanoramaNetwork, state: State) -> dict[str, Tensor]:
    components, height = state["modalities.0.basis"].shape
    width = state["emb_shared_latent.1.1.weight"].shape[1]
    return {
        "x_mean": network.image_mean,
        "x_std": network.image_std,
        "modalities.0.basis": cosines(components, height),
        "horizon_refine.pos": sinusoids(width, height // 2)[None],
    }


# Convolutions that wrap are the second of two modules, the first of which pads.
HOHONET = _Student(
    "HoHoNet",
    HoHoNet,
    ("encoder.encoder.", "decoder.ghc_lst.", "horizon_refine.", "modalities.0."),
    (
        (r"^encoder\.conv1\.", "encoder.encoder.conv1.1."),
        (r"^encoder\.(layer\d\.\d+)\.conv2\.", r"encoder.encoder.\1.conv2.1."),
        (r"^encoder\.(?!encoder\.)", "encoder.encoder."),
        (r"^compress\.(\d)\.([04])\.", r"decoder.ghc_lst.\1.\2.1."),
        (r"^compress\.", "decoder.ghc_lst."),
        (r"^join\.", "decoder.fuse."),
        (r"^attend\.qkv\.", "horizon_refine.transen.layers.0.self_attn.in_proj_"),
        (r"^attend\.project\.", "horizon_refine.transen.layers.0.self_attn.out_proj."),
        (r"^attend\.expand\.", "horizon_refine.transen.layers.0.linear1."),
        (r"^attend\.reduce\.", "horizon_refine.transen.layers.0.linear2."),
        (r"^attend\.", "horizon_refine.transen.layers.0."),
        (r"^embed\.0\.", "emb_shared_latent.1.1."),
        (r"^embed\.1\.", "emb_shared_latent.2."),
        (r"^coefficients\.", "modalities.0.estimator."),
        (r"^bias$", "modalities.0.bias"),
    ),
    _hohonet_arguments,
    _hohonet_constants,
)


def _egformer_arguments(state: State) -> dict[str, Any]:
    return {"width": _shape(state, "patch_embed.0.weight", 4, "EGformer")[0]}


def _egformer_stages() -> dict[str, str]:
    """Map our stages to the published ones; the coarsest is one of our encoders."""
    encoders = {f"encoders.{i}": f"stage{i + 1}" for i in range(4)} | {"encoders.4": "bottleneck"}
    return encoders | {f"decoders.{i}": f"dec_stage{8 - i}" for i in range(4)}


EGFORMER_DEFORMABLE = r"(stage1|stage2|dec_stage7|dec_stage8)"
EGFORMER = _Student(
    "EGformer",
    EGformer,
    ("patch_embed.", "stage1.", "bottleneck.", "dec_stage5.", "tune_final."),
    (
        (r"^embed\.", "patch_embed.0."),
        (r"^embed_norm\.", "patch_embed.2."),
        *((rf"^{re.escape(own)}\.", f"{published}.") for own, published in _egformer_stages().items()),
        (rf"^{EGFORMER_DEFORMABLE}\.([01])\.", r"\1.0.blocks.\2."),
        (rf"^{EGFORMER_DEFORMABLE}\.2\.", r"\1.1."),
        (r"(blocks\.\d)\.query\.", r"\1.dattn.q_proj."),
        (r"(blocks\.\d)\.value\.", r"\1.dattn.k_proj."),
        (r"(blocks\.\d)\.offsets\.", r"\1.dattn.offset_proj."),
        (r"(blocks\.\d)\.weights\.", r"\1.dattn.A_proj."),
        (r"(blocks\.\d)\.project\.", r"\1.dattn.wm_proj."),
        (r"(blocks\.\d)\.expand\.", r"\1.mlp.linear1.0."),
        (r"(blocks\.\d)\.mix\.", r"\1.mlp.dwconv.0."),
        (r"(blocks\.\d)\.reduce\.", r"\1.mlp.linear2.0."),
        (r"\.project\.", ".proj."),
        (r"\.expand\.", ".mlp.fc1."),
        (r"\.reduce\.", ".mlp.fc2."),
        *((rf"^shrink\.{i}\.", f"downsample{i + 1}.") for i in range(4)),
        *((rf"^enlarge\.{i}\.", f"upsample{8 - i}.") for i in range(4)),
        *((rf"^join\.{i}\.", f"tune{8 - i}.") for i in range(4)),
        (r"^refine\.", "tune_final."),
        (r"^head1\.", "output_conv.0."),
        (r"^head2\.", "output_conv.2."),
        (r"^predict_distance\.", "output_conv.4."),
    ),
    _egformer_arguments,
    lambda network, state: {},
    (("norm.weight", "patch_embed.2.weight"), ("norm.bias", "patch_embed.2.bias")),
)

FORMATS: dict[str, Format] = {
    "unifuse": UNIFUSE.format(),
    "bifuse": BIFUSE.format(),
    "hohonet": HOHONET.format(),
    "egformer": EGFORMER.format(),
}
