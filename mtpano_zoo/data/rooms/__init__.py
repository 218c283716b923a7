"""Procedural rooms: panoramas with exact classes, depth and normals, and nothing to download."""

from mtpano_zoo.data.rooms.datamodule import RoomsDataModule, RoomsDataset
from mtpano_zoo.data.rooms.rendering import render
from mtpano_zoo.data.rooms.sampling import sample_room
from mtpano_zoo.data.rooms.scene import Room
from mtpano_zoo.data.rooms.writer import write_rooms

__all__ = ("Room", "RoomsDataModule", "RoomsDataset", "render", "sample_room", "write_rooms")
