"""`mtpano data`: verify, plot, count, pack and prepare data sets."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mtpano_zoo.machine.cores import available_cores
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.resources import configuration
from mtpano_zoo.short_verbs import Verbs, file_to_write, number_of_processes, report_to_write

if TYPE_CHECKING:
    from lightning import LightningDataModule

__all__ = ("add",)

SPLITS = ("train", "val", "test")


def add(verbs: Verbs) -> None:
    """Add the parsers of `mtpano data` and its verbs."""
    data: argparse.ArgumentParser = verbs.add_parser(
        "data", help="verify, plot, count or pack a data set, or prepare a raw release"
    )
    inner = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    common = argparse.ArgumentParser(add_help=False)
    named = common.add_argument_group("data set")
    named.add_argument("--data", metavar="NAME", help="e.g. structured3d, or the class name of a data module")
    named.add_argument("--root", metavar="DIR", help="folder of the data set")
    named.add_argument(
        "--config", type=os.path.expanduser, metavar="FILE", help="a configuration of `mtpano fit`, instead of --data"
    )
    named.add_argument(
        "options", nargs="*", metavar="KEY=VALUE", help="arguments of the data module, e.g. tasks=[depth]"
    )
    read = argparse.ArgumentParser(add_help=False, parents=[common])
    read.add_argument("--split", action="append", choices=SPLITS, help="may be repeated (default: all splits)")
    cores = available_cores()
    read.add_argument(
        "--workers", type=number_of_processes, default=cores, help="number of processes (default: one per core)"
    )
    verify = inner.add_parser("verify", parents=[read], help="read every file and report what is wrong")
    findings = report_to_write(lambda found: "findings" in found)
    verify.add_argument("--json", type=findings, metavar="FILE", help="write all results as JSON")
    verify.add_argument(
        "--skip-list", type=file_to_write, metavar="FILE", help="write the ids that have errors, for exclude=FILE"
    )
    verify.add_argument(
        "--depth-range",
        nargs=2,
        type=float,
        default=(0.05, 200.0),
        metavar=("MIN", "MAX"),
        help="plausible distances in metres (default 0.05 200)",
    )
    verify.add_argument("--allow-missing", action="store_true", help="do not count missing labels as errors")
    verify.set_defaults(execute=_verify)

    stats = inner.add_parser("stats", parents=[read], help="print class frequencies, distances, coverage and colours")
    by_split = report_to_write(
        lambda found: bool(found) and all(isinstance(one, dict) and "unreadable" in one for one in found.values())
    )
    stats.add_argument("--json", type=by_split, metavar="FILE", help="write all results as JSON")
    stats.set_defaults(execute=_stats)

    plot = inner.add_parser("plot", parents=[common], help="draw samples with their labels")
    plot.add_argument("--out", required=True, type=file_to_write, metavar="FILE.png", help="file to write")
    plot.add_argument("--split", choices=SPLITS, default="train", help="split to draw from (default %(default)s)")
    plot.add_argument("--count", type=int, default=4, help="number of samples, evenly spread (default %(default)s)")
    plot.add_argument("--id", action="append", default=[], help="draw this sample instead; may be repeated")
    plot.add_argument("--augmented", action="store_true", help="augment the samples as in training")
    plot.set_defaults(execute=_plot)

    pack = inner.add_parser("pack", parents=[read], help="write WebDataset tar files for ShardsDataModule")
    pack.add_argument("--out", required=True, type=user_path, metavar="DIR", help="a new folder")
    pack.add_argument("--shard-size", type=int, default=500, help="samples per file (default %(default)s)")
    pack.set_defaults(execute=_pack)

    _add_prepare_options(inner.add_parser("prepare", help="make panoramas from a release that has none"))


def _add_prepare_options(prepare: argparse.ArgumentParser) -> None:
    prepare.add_argument("name", choices=("matterport3d",), help="name of the release")
    prepare.add_argument("--root", required=True, type=user_path, metavar="DIR", help="folder of the release")
    prepare.add_argument(
        "--out", required=True, type=user_path, metavar="DIR", help="a new folder, or an unfinished one"
    )
    prepare.add_argument(
        "--height", type=int, default=512, help="rows; a panorama is twice as wide (default %(default)s)"
    )
    prepare.add_argument(
        "--workers", type=int, default=1, help="number of processes, about 2 GB of memory each (default %(default)s)"
    )
    prepare.set_defaults(execute=_prepare)


def _build_data(options: argparse.Namespace) -> "LightningDataModule":
    from mtpano_zoo.training.data_by_name import build_data

    config = options.config and configuration(options.config)
    return build_data(options.data, options.root, options.options, config)


def _verify(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.inspection import verify
    from mtpano_zoo.data.skip_list import check_skip_list, write_skip_list

    data = _build_data(options)
    if options.skip_list:
        check_skip_list(options.skip_list, data)
    report = verify(
        data,
        options.split or SPLITS,
        workers=options.workers,
        depth_range=tuple(options.depth_range),
        allow_missing=options.allow_missing,
    )
    print(report.summary())
    if options.json:
        report.save(options.json)
    if options.skip_list:
        count = write_skip_list(options.skip_list, report, data)
        print(f"{options.skip_list} lists {count} samples to leave out: pass exclude={options.skip_list}")
    return report.exit_code


def _stats(options: argparse.Namespace) -> int:
    import json

    from mtpano_zoo.data.statistics import as_table, statistics
    from mtpano_zoo.image_io import write_bytes

    described = statistics(_build_data(options), options.split or SPLITS, workers=options.workers)
    print(as_table(described))
    if options.json:
        write_bytes(options.json, json.dumps(described, indent=1).encode())
    return 0


def _plot(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.plotting import plot_samples

    shown = plot_samples(
        _build_data(options),
        options.out,
        split=options.split,
        count=options.count,
        ids=options.id,
        augmented=options.augmented,
    )
    print(f"{shown} samples are in {options.out}")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.shards import write_shards

    written = write_shards(
        _build_data(options),
        options.out,
        options.split or SPLITS,
        shard_size=options.shard_size,
        workers=options.workers,
    )
    print(f"{', '.join(f'{count} {split}' for split, count in written.items())} samples are in {options.out}")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.matterport3d_prepare import prepare

    height, width = options.height, 2 * options.height
    done = prepare(options.root, options.out, height, width, options.workers, report=print)
    print(f"{done.written + done.kept} panoramas are in {options.out}, {done.written} of them new")
    if done.failures:
        print(f"{len(done.failures)} buildings were not fully usable, see above", file=sys.stderr)
    return 1 if done.failures else 0
