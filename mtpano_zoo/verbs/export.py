"""`mtpano export`: write a network as a file that runs without this package."""

import argparse
import sys
from pathlib import Path

from mtpano_zoo.errors import InputError
from mtpano_zoo.short_verbs import Verbs, file_to_write

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano export`."""
    export = verbs.add_parser("export", help="write a network as a file that runs without this package")
    export.add_argument("model", metavar="NAME_OR_PATH", help="a name from `mtpano models` or a checkpoint")
    export.add_argument("--format", required=True, choices=("onnx", "torch-export"), help="format of the file")
    export.add_argument("--out", required=True, type=file_to_write, metavar="FILE", help="file to write")
    export.add_argument("--height", type=int, help="rows of the images (default: the network's own)")
    export.add_argument("--width", type=int, help="columns (default: twice the rows)")
    export.add_argument("--overwrite", action="store_true", help="replace a file that is already there")
    export.set_defaults(execute=_export)


def _export(options: argparse.Namespace) -> int:
    from mtpano_zoo.output_paths import check_destination
    from mtpano_zoo.zoo import load_model
    from mtpano_zoo.zoo.places import locate

    if options.width is not None and options.height is None:
        raise InputError("--width needs --height: pass both, or only --height")
    place = locate(options.model)
    inputs = [place, place / "config.json", *place.glob("*.safetensors")] if isinstance(place, Path) else []
    check_destination(options.out, options.format, options.overwrite, inputs)
    size = None
    if options.height is not None:
        size = (options.height, 2 * options.height if options.width is None else options.width)
    # PyTorch takes seconds to import: mistakes are reported before that.
    from mtpano_zoo.commands.export_network import export

    model = load_model(options.model)
    print("writing and checking the file: this takes minutes", file=sys.stderr)
    written = export(model, options.out, options.format, size, options.overwrite)
    print(f"{' and '.join(map(str, written))}: agrees with PyTorch within 1e-4")
    return 0
