"""Data sets as LightningDataModules; a sample is a dict of image, semseg, depth, normals and id."""

from mtpano_zoo.data.augmentation import Augmentation
from mtpano_zoo.data.classes import S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.data.rooms import RoomsDataModule, RoomsDataset, write_rooms

__all__ = ("S3DIS_CLASSES", "S3DIS_PALETTE", "Augmentation", "RoomsDataModule", "RoomsDataset", "write_rooms")
