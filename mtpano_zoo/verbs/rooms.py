"""`mtpano rooms`: write rendered scenes with ground truth."""

import argparse

from mtpano_zoo.output_paths import user_path
from mtpano_zoo.short_verbs import Verbs

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano rooms`."""
    rooms = verbs.add_parser("rooms", help="write rendered rooms, homes or streets with ground truth")
    rooms.add_argument(
        "--kind",
        choices=("rooms", "homes", "streets"),
        default="rooms",
        help="homes have more detail (default %(default)s)",
    )
    rooms.add_argument(
        "--tilt", type=float, default=0.0, help="maximum tilt of the camera in degrees (default %(default)g)"
    )
    rooms.add_argument(
        "--version",
        type=int,
        default=1,
        help="version of homes: 2 has stairs and mirrors, 3 also clear glass (default %(default)s)",
    )
    rooms.add_argument("--views", type=user_path, metavar="DIR", help="folder of panoramas to show in windows of homes")
    rooms.add_argument("--out", required=True, type=user_path, metavar="DIR", help="folder to write to")
    rooms.add_argument("--count", type=int, default=16, help="number of scenes (default %(default)s)")
    rooms.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="train",
        help="split to render; splits share no scenes (default %(default)s)",
    )
    rooms.add_argument(
        "--height", type=int, default=256, help="rows; a panorama is twice as wide (default %(default)s)"
    )
    rooms.add_argument("--seed", type=int, default=0, help="seed of the scenes (default %(default)s)")
    rooms.set_defaults(execute=_rooms)


def _rooms(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.rooms_writer import write_rooms

    size = (options.height, 2 * options.height)
    own = (options.seed, options.kind, options.tilt, options.version, options.views)
    write_rooms(options.out, options.split, options.count, *size, *own)
    print(f"{options.count} {options.kind} are in {options.out}")
    return 0
