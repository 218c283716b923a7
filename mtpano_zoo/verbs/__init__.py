"""The short verbs of `mtpano`, one module each: `add` registers the parser and names the function to run.

None of them imports PyTorch before it has checked its arguments.
"""
