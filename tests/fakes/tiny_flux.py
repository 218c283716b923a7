"""A FLUX.1 in miniature that knows a few words."""

from mtpano_zoo.generation.tiny import TinyFlux

WORDS = ["a", "dark", "bright", "room", "with", "window"]


def tiny_flux() -> TinyFlux:
    return TinyFlux(WORDS, width=32, double_blocks=1, single_blocks=1, text_width=16, text_layers=1)
