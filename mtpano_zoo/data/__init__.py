"""Data sets as LightningDataModules; a sample is a dict of `image`, `id` and the labels that its data set has."""

from mtpano_zoo.classes import ADE20K_CLASSES, NYU40_CLASSES, NYU40_PALETTE, S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.data.augmentation import Augmentation
from mtpano_zoo.data.deep360 import Deep360DataModule
from mtpano_zoo.data.folder import FolderDataModule
from mtpano_zoo.data.homes import HomesDataModule, HomesDataset
from mtpano_zoo.data.matterport3d import Matterport3DDataModule
from mtpano_zoo.data.mixed import MixedDataModule
from mtpano_zoo.data.pano3d import Pano3DDataModule
from mtpano_zoo.data.pseudo_labels import PseudoLabelDataModule
from mtpano_zoo.data.rooms import RoomsDataModule, RoomsDataset
from mtpano_zoo.data.rooms_writer import write_rooms
from mtpano_zoo.data.semi_supervised import SemiSupervisedDataModule
from mtpano_zoo.data.shards import ShardsDataModule, write_shards
from mtpano_zoo.data.stanford2d3d import Stanford2D3DDataModule
from mtpano_zoo.data.streets import StreetsDataModule, StreetsDataset
from mtpano_zoo.data.structured3d import Structured3DDataModule
from mtpano_zoo.data.synpass import SynPASSDataModule
from mtpano_zoo.data.threed60 import ThreeD60DataModule
from mtpano_zoo.data.unlabelled import GeneratedDataModule, SUN360DataModule, ZInDDataModule
from mtpano_zoo.data.video import SpatialAudioGenDataModule

__all__ = (
    "ADE20K_CLASSES",
    "NYU40_CLASSES",
    "NYU40_PALETTE",
    "S3DIS_CLASSES",
    "S3DIS_PALETTE",
    "Augmentation",
    "Deep360DataModule",
    "FolderDataModule",
    "GeneratedDataModule",
    "HomesDataModule",
    "HomesDataset",
    "Matterport3DDataModule",
    "MixedDataModule",
    "Pano3DDataModule",
    "PseudoLabelDataModule",
    "RoomsDataModule",
    "RoomsDataset",
    "SUN360DataModule",
    "SemiSupervisedDataModule",
    "ShardsDataModule",
    "SpatialAudioGenDataModule",
    "Stanford2D3DDataModule",
    "StreetsDataModule",
    "StreetsDataset",
    "Structured3DDataModule",
    "SynPASSDataModule",
    "ThreeD60DataModule",
    "ZInDDataModule",
    "write_rooms",
    "write_shards",
)
