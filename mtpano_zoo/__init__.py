"""Model zoo for 360-degree panoramas: class, distance and surface normal for every pixel."""

__version__ = "0.1.0"
