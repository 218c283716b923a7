"""Networks, one per file; `NETWORKS` is the literal list of what a checkpoint may name."""

from mtpano_zoo.models.base import PanoramaNetwork
from mtpano_zoo.models.dap import DAP
from mtpano_zoo.models.inference import InferenceNetwork, prepare_for_inference
from mtpano_zoo.models.pd_bridgenet import PDBridgeNet

__all__ = ("DAP", "NETWORKS", "InferenceNetwork", "PDBridgeNet", "PanoramaNetwork", "prepare_for_inference")

NETWORKS: dict[str, type[PanoramaNetwork]] = {
    "DAP": DAP,
    "PDBridgeNet": PDBridgeNet,
}
