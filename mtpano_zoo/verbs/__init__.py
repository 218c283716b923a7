"""The short verbs of `mtpano`: a module each, with `add`, which adds its parser, and what it does.

None of them imports PyTorch before it has checked its arguments.
"""
