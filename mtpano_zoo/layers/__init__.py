"""Network blocks for the sphere; they import nothing from this package above `sphere`."""

from mtpano_zoo.layers.bridge import BridgeBlock
from mtpano_zoo.layers.checkpointing import checkpointed
from mtpano_zoo.layers.cnn_encoder import CNNEncoder
from mtpano_zoo.layers.convolution import SphereConv2d, Upsample, conv2d
from mtpano_zoo.layers.cube import FromCube, ToCube
from mtpano_zoo.layers.dpt import DPTNeck, RegressionHead, SegmentationHead
from mtpano_zoo.layers.encoder import Encoder
from mtpano_zoo.layers.geometry import geometry_encoding, pole_weights
from mtpano_zoo.layers.heads import AuxiliaryHead, ScaleAggregator, TaskAdapter, zero_init_projection
from mtpano_zoo.layers.lora import add_lora, merge_lora
from mtpano_zoo.layers.recorded import RecordedModule
from mtpano_zoo.layers.refiner import ERPTokenMixer, InvariantBlock, VariantBlock
from mtpano_zoo.layers.resnet import ResNetStages, halved
from mtpano_zoo.layers.up_head import UpHead
from mtpano_zoo.layers.vit_encoder import ViTEncoder

__all__ = (
    "ENCODERS",
    "AuxiliaryHead",
    "BridgeBlock",
    "CNNEncoder",
    "DPTNeck",
    "ERPTokenMixer",
    "Encoder",
    "FromCube",
    "InvariantBlock",
    "RecordedModule",
    "RegressionHead",
    "ResNetStages",
    "ScaleAggregator",
    "SegmentationHead",
    "SphereConv2d",
    "TaskAdapter",
    "ToCube",
    "UpHead",
    "Upsample",
    "VariantBlock",
    "ViTEncoder",
    "add_lora",
    "checkpointed",
    "conv2d",
    "geometry_encoding",
    "halved",
    "merge_lora",
    "pole_weights",
    "zero_init_projection",
)

# Encoders that a file of weights may name.
ENCODERS: dict[str, type[Encoder]] = {"CNNEncoder": CNNEncoder, "ViTEncoder": ViTEncoder}
