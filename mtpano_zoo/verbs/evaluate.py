"""`mtpano eval`: score networks or folders of predictions."""

import argparse
import os
import sys
from pathlib import Path

from mtpano_zoo.output_paths import user_path
from mtpano_zoo.short_verbs import Verbs

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano eval`."""
    parser = verbs.add_parser("eval", help="score networks or folders of predictions, and test seams and tilt")
    option = parser.add_argument
    option("models", nargs="+", metavar="MODEL", help="a name, a checkpoint, or a folder of predictions")
    option(
        "--data",
        required=True,
        type=os.path.expanduser,
        help="rooms, homes, streets, or a folder with images/ and labels",
    )
    option(
        "--out",
        default=Path("report"),
        type=user_path,
        metavar="DIR",
        help="report to write or continue (default %(default)s)",
    )
    option("--limit", type=int, help="number of panoramas (default: 20 scenes, or the whole folder)")
    option("--height", type=int, help="rows (default: 256, or those of the folder's first panorama)")
    option("--seed", type=int, default=0, help="seed of the rendered scenes (default %(default)s)")
    option(
        "--protocol",
        type=os.path.expanduser,
        metavar="FILE",
        help="e.g. evaluate-unaligned-10m.yaml (default: distances without limits)",
    )
    option(
        "--unit",
        help="unit of a folder's distances: m, cm, mm, or metres per step (default: m; mm in ID_depth.png)",
    )
    option(
        "--kind",
        choices=("ray", "z", "disparity"),
        default="ray",
        help="type of a folder's distances (default %(default)s)",
    )
    option(
        "--skip",
        action="append",
        default=[],
        choices=("yaw", "tilt", "cross"),
        help="test to leave out; may be repeated",
    )
    option("--force", action="store_true", help="score a folder even if its unit or frame looks wrong")
    option("--device", help="cpu, cuda, cuda:1, ... (default: the GPU of this process, if there is one)")
    parser.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from mtpano_zoo.zoo.places import locate

    for name in options.models:
        locate(name)
    # These take seconds to import, as PyTorch does: mistakes are reported before that.
    from mtpano_zoo.evaluation.command import judge, open_predictors, summary
    from mtpano_zoo.evaluation.data_sets import open_data
    from mtpano_zoo.machine.claims import process_number
    from mtpano_zoo.machine.device import default_device

    data = open_data(options.data, options.height, options.limit, options.seed)
    report = judge(
        open_predictors(options.models, options.unit, options.kind, options.device or default_device()),
        data,
        options.out,
        protocol=options.protocol,
        skip=options.skip,
        force=options.force,
        report=lambda text: print(text, file=sys.stderr),
    )
    if process_number() == 0:
        print(summary(report))
        print(f"The report is {options.out / 'report.html'}, its numbers are in {options.out / 'report.json'}")
    return 0
