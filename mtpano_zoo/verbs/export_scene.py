"""`mtpano export-scene`: write results and their panoramas as a scene for splat trainers."""

import argparse
import sys

from mtpano_zoo.output_paths import printable, user_path
from mtpano_zoo.short_verbs import Verbs

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano export-scene`."""
    scene = verbs.add_parser("export-scene", help="write results and their panoramas as a scene for splat trainers")
    scene.add_argument("results", type=user_path, metavar="RESULTS", help="folder that `mtpano run` wrote")
    scene.add_argument("--to", required=True, choices=("colmap",), help="format of the scene")
    scene.add_argument(
        "--images", required=True, type=user_path, metavar="DIR", help="folder with all that `mtpano run` was given"
    )
    scene.add_argument("--out", required=True, type=user_path, metavar="DIR", help="a new folder")
    scene.add_argument(
        "--poses", type=user_path, metavar="FILE", help="images.txt from COLMAP (default: all at the origin)"
    )
    scene.add_argument("--one-scale", action="store_true", help="scale distances to agree; needs --poses")
    scene.add_argument("--views", type=int, choices=(6, 12), help="write perspective views in place of panoramas")
    scene.add_argument("--size", type=int, help="rows and columns of a view (default: the panorama's pixel density)")
    scene.add_argument(
        "--nadir", type=float, default=0.0, help="mask this many degrees around straight down (default %(default)g)"
    )
    scene.set_defaults(execute=_export_scene)


def _export_scene(options: argparse.Namespace) -> int:
    from mtpano_zoo.commands.export_scene import export_scene

    how = {key: getattr(options, key) for key in ("poses", "views", "size", "nadir", "one_scale")}
    count = export_scene(
        options.results, options.images, options.out, **how, report=lambda sentence: print(sentence, file=sys.stderr)
    )
    how_written = f", each as up to {options.views} views" if options.views else ""
    are = "panorama is" if count == 1 else "panoramas are"
    print(printable(f"{count} {are} in {options.out}{how_written}"))
    return 0
