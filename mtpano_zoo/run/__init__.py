"""`mtpano run`: predict for many images and videos, and write the results."""

from mtpano_zoo.run.images import run
from mtpano_zoo.run.output import RunReport

__all__ = ("RunReport", "run")
