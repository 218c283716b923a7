"""Networks, one per file; `NETWORKS` is the literal list of what a checkpoint may name."""

from mtpano_zoo.models.base import PanoramaNetwork
from mtpano_zoo.models.inference import InferenceNetwork, prepare_for_inference
from mtpano_zoo.models.pd_bridgenet import PDBridgeNet
from mtpano_zoo.models.unifuse import UniFuse

__all__ = ("NETWORKS", "InferenceNetwork", "PDBridgeNet", "PanoramaNetwork", "UniFuse", "prepare_for_inference")

NETWORKS: dict[str, type[PanoramaNetwork]] = {
    "PDBridgeNet": PDBridgeNet,
    "UniFuse": UniFuse,
}
