"""Network blocks that know the sphere; they import nothing of ours above `sphere`."""

from mtpano_zoo.layers.bridge import BridgeBlock
from mtpano_zoo.layers.checkpointing import checkpointed
from mtpano_zoo.layers.convolution import SphereConv2d, Upsample, conv2d
from mtpano_zoo.layers.dpt import DPTNeck, RegressionHead, SegmentationHead
from mtpano_zoo.layers.encoder import ViTEncoder
from mtpano_zoo.layers.geometry import geometry_encoding, pole_weights
from mtpano_zoo.layers.heads import AuxiliaryHead, ScaleAggregator, TaskAdapter, zero_init_projection
from mtpano_zoo.layers.lora import add_lora, merge_lora
from mtpano_zoo.layers.refiner import ERPTokenMixer, InvariantBlock, VariantBlock

__all__ = (
    "AuxiliaryHead",
    "BridgeBlock",
    "DPTNeck",
    "ERPTokenMixer",
    "InvariantBlock",
    "RegressionHead",
    "ScaleAggregator",
    "SegmentationHead",
    "SphereConv2d",
    "TaskAdapter",
    "Upsample",
    "VariantBlock",
    "ViTEncoder",
    "add_lora",
    "checkpointed",
    "conv2d",
    "geometry_encoding",
    "merge_lora",
    "pole_weights",
    "zero_init_projection",
)
