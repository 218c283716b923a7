"""Procedural scenes: panoramas indoors and outdoors with exact classes, depth and normals, and no download."""

from mtpano_zoo.scenes.homes import sample_home
from mtpano_zoo.scenes.rendering import render
from mtpano_zoo.scenes.sampling import sample_room
from mtpano_zoo.scenes.scene import Room
from mtpano_zoo.scenes.streets import sample_street

__all__ = ("Room", "render", "sample_home", "sample_room", "sample_street")
