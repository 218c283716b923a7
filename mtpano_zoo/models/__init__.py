"""Networks, one per file; `NETWORKS` is the literal list of what a checkpoint may name."""

from mtpano_zoo.models.base import PanoramaNetwork
from mtpano_zoo.models.bifuse import BiFuse
from mtpano_zoo.models.dap import DAP
from mtpano_zoo.models.egformer import EGformer
from mtpano_zoo.models.hohonet import HoHoNet
from mtpano_zoo.models.inference import InferenceNetwork, prepare_for_inference
from mtpano_zoo.models.pd_bridgenet import PDBridgeNet
from mtpano_zoo.models.unifuse import UniFuse

__all__ = (
    "DAP",
    "NETWORKS",
    "BiFuse",
    "EGformer",
    "HoHoNet",
    "InferenceNetwork",
    "PDBridgeNet",
    "PanoramaNetwork",
    "UniFuse",
    "prepare_for_inference",
)

NETWORKS: dict[str, type[PanoramaNetwork]] = {
    "BiFuse": BiFuse,
    "DAP": DAP,
    "EGformer": EGformer,
    "HoHoNet": HoHoNet,
    "PDBridgeNet": PDBridgeNet,
    "UniFuse": UniFuse,
}
