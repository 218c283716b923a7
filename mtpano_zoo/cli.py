"""The `mtpano` command: Lightning's verbs for training and scoring, and short verbs for everything else."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mtpano_zoo
from mtpano_zoo.errors import InputError
from mtpano_zoo.resources import DEFAULT_MODEL, with_shipped_configs
from mtpano_zoo.short_verbs import TRACEBACK, ShortVerbParser, file_to_write, number_of_processes
from mtpano_zoo.spelling import did_you_mean, nearest

if TYPE_CHECKING:
    from lightning import LightningDataModule

__all__ = ("main",)

LIGHTNING_VERBS = {
    "fit": "train a network: mtpano fit --config quickstart.yaml",
    "validate": "score a checkpoint on the validation set",
    "test": "score a checkpoint on the test set",
    "predict": "predict for every sample of a data module",
}

SPLITS = ("train", "val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    A user's mistake is printed as one sentence on standard error, or raised with `--traceback`. Any other exception is
    a bug and is always raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = [argument for argument in arguments if argument != TRACEBACK]
    try:
        return _execute(wanted or ["--help"])
    except (InputError, OSError) as error:
        if len(wanted) < len(arguments):
            raise
        print(f"mtpano: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mtpano: interrupted; finished results are kept.", file=sys.stderr)
        return 130


def _execute(arguments: Sequence[str]) -> int:
    verb = arguments[0]
    if verb in LIGHTNING_VERBS:
        from mtpano_zoo.training.cli import main as lightning_main  # Lightning takes seconds to import
        from mtpano_zoo.training.cli import next_commands

        trained = lightning_main(with_shipped_configs(arguments))
        if verb == "fit" and (text := next_commands(trained.trainer)):
            print(text)
        return 0
    if verb == "label":
        from mtpano_zoo.labeling.run import main as label_main

        return label_main(with_shipped_configs(arguments)[1:])
    if verb == "curate":
        from mtpano_zoo.labeling.curation.run import main as curate_main

        return curate_main(with_shipped_configs(arguments)[1:])
    options = build_parser().parse_args(arguments)
    status: int = options.execute(options)
    return status


def _sentence(error: Exception) -> str:
    text = str(error)
    if "\nOriginal Traceback" in text:  # torch puts a data worker's traceback into the message
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the short verbs. The other verbs appear only in its help and are parsed elsewhere."""
    parser = ShortVerbParser(
        "mtpano",
        description="Class, distance and surface normal for every pixel of a 360-degree panorama.",
        epilog="`mtpano VERB --help` explains a verb and its options.",
    )
    parser.add_argument("--version", action="version", version=mtpano_zoo.__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb, text in LIGHTNING_VERBS.items():
        verbs.add_parser(verb, help=text, add_help=False)

    run = verbs.add_parser("run", help="predict for panoramas: files or folders")
    run.add_argument("sources", nargs="+", metavar="IMAGE_OR_FOLDER")
    run.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_PATH",
        help="a name of `mtpano models` or a checkpoint (default %(default)s, trained on rendered rooms)",
    )
    run.add_argument(
        "--out",
        default=Path("predictions"),
        type=Path,
        metavar="DIR",
        help="folder for the results (default %(default)s)",
    )
    run.add_argument("--batch-size", type=int, default=1, help="panoramas per forward pass (default 1)")
    run.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    run.add_argument("--mask-sky", action="store_true", help="give pixels of the class sky no depth and no normal")
    run.add_argument(
        "--blend-seam", action="store_true", help="smooth depth and normals across the left and right edge"
    )
    run.add_argument(
        "--max-distance", type=float, metavar="METRES", help="no depth from here on; networks with range masks"
    )
    run.add_argument(
        "--depth-range",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="metres that the colours of depth span in all pictures, for a video (default: each its own)",
    )
    run.add_argument("--level", action="store_true", help="level tilted panoramas before the network sees them")
    run.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    run.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    run.add_argument("--workers", type=int, help="processes that write (default: depends on panoramas and cores)")
    run.add_argument("--no-panel", action="store_true", help="do not draw the picture of all maps, which is slow")
    run.add_argument("--ply", action="store_true", help="write a point cloud with colours and normals too")
    run.add_argument("--glb", action="store_true", help="write a textured mesh too, for browsers and Blender")
    run.add_argument(
        "--stride", type=int, help="rows and columns that --ply and --glb use (default: at most 512 rows remain)"
    )
    run.add_argument(
        "--compile", action="store_true", help="compile first (minutes), then run faster: for many panoramas on a GPU"
    )
    run.set_defaults(execute=_run)

    export = verbs.add_parser("export", help="write a network as a file that runs without this package")
    export.add_argument("model", metavar="NAME_OR_PATH", help="a name of `mtpano models` or a checkpoint")
    export.add_argument("--format", required=True, choices=("onnx", "torch-export"))
    export.add_argument("--out", required=True, type=file_to_write, metavar="FILE")
    export.add_argument("--height", type=int, help="rows of the images (default: the network's own)")
    export.add_argument("--width", type=int, help="columns (default: twice the rows)")
    export.add_argument("--overwrite", action="store_true", help="replace a file that is already there")
    export.set_defaults(execute=_export)

    scene = verbs.add_parser("export-scene", help="write results and their panoramas as a scene for splat trainers")
    scene.add_argument("results", type=Path, metavar="RESULTS", help="a folder that `mtpano run` has written")
    scene.add_argument("--to", required=True, choices=("colmap",))
    scene.add_argument("--images", required=True, type=Path, metavar="DIR", help="the folder of the panoramas")
    scene.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    scene.add_argument(
        "--poses", type=Path, metavar="FILE", help="an images.txt of COLMAP (default: all at the origin)"
    )
    scene.add_argument("--one-scale", action="store_true", help="scale distances so that they agree; needs --poses")
    scene.add_argument("--views", type=int, choices=(6, 12), help="write perspective views in place of panoramas")
    scene.add_argument("--size", type=int, help="rows and columns of a view (default: as dense as the panorama)")
    scene.add_argument("--nadir", type=float, default=0.0, help="degrees from straight down to mask (default 0)")
    scene.set_defaults(execute=_export_scene)

    # Parsed by mtpano_zoo.labeling.run, whose options are constructor arguments.
    verbs.add_parser("label", help="label panoramas with teachers that look at perspective views", add_help=False)
    verbs.add_parser("curate", help="label panoramas with a network, score the labels, select the best", add_help=False)

    models = verbs.add_parser("models", help="list the published checkpoints")
    models.add_argument("pattern", nargs="?", default="*", help="part of a name, or a pattern such as '*.rooms'")
    models.add_argument("--markdown", action="store_true", help="print the table of the README")
    models.set_defaults(execute=_models)

    rooms = verbs.add_parser("rooms", help="write rendered rooms or streets with ground truth to a folder")
    rooms.add_argument(
        "--kind", choices=("rooms", "homes", "streets"), default="rooms", help="homes are richer (default %(default)s)"
    )
    rooms.add_argument("--tilt", type=float, default=0.0, help="the camera leans by up to so many degrees (default 0)")
    rooms.add_argument("--out", required=True, type=Path, metavar="DIR")
    rooms.add_argument("--count", type=int, default=16)
    rooms.add_argument("--split", choices=("train", "val", "test"), default="train")
    rooms.add_argument("--height", type=int, default=256, help="rows; a panorama is twice as wide (default 256)")
    rooms.add_argument("--seed", type=int, default=0)
    rooms.set_defaults(execute=_rooms)

    _add_data_verbs(verbs.add_parser("data", help="verify, plot, count or pack a data set, or prepare a raw release"))

    quickstart = verbs.add_parser("quickstart", help="predict, then train a small network and score it")
    quickstart.add_argument("images", nargs="*", metavar="IMAGE", help="panoramas to predict for")
    quickstart.add_argument("--config", default="quickstart.yaml", help="a shipped configuration or a path")
    quickstart.add_argument("--out", type=Path, default=Path("runs/quickstart"), metavar="DIR")
    quickstart.set_defaults(execute=_quickstart)
    return parser


def _add_data_verbs(data: argparse.ArgumentParser) -> None:
    verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    common = argparse.ArgumentParser(add_help=False)
    named = common.add_argument_group("data set")
    named.add_argument("--data", metavar="NAME", help="e.g. structured3d, or the class of a data module")
    named.add_argument("--root", metavar="DIR", help="folder of the data set")
    named.add_argument("--config", metavar="FILE", help="a configuration of `mtpano fit`, instead of --data")
    named.add_argument(
        "options", nargs="*", metavar="KEY=VALUE", help="arguments of the data module, e.g. tasks=[depth]"
    )
    read = argparse.ArgumentParser(add_help=False, parents=[common])
    read.add_argument("--split", action="append", choices=SPLITS, help="may be repeated (default: all splits)")
    cores = os.cpu_count() or 1
    read.add_argument("--workers", type=number_of_processes, default=cores, help="processes (default: one per core)")
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument("--json", type=file_to_write, metavar="FILE", help="write all results as JSON")

    verify = verbs.add_parser("verify", parents=[read, found], help="read every file and report what is wrong")
    verify.add_argument(
        "--skip-list", type=file_to_write, metavar="FILE", help="write the ids that have errors, for exclude=FILE"
    )
    verify.add_argument(
        "--depth-range", nargs=2, type=float, default=(0.05, 200.0), metavar=("MIN", "MAX"), help="metres"
    )
    verify.add_argument("--allow-missing", action="store_true", help="do not count missing labels as errors")
    verify.set_defaults(execute=_verify)

    stats = verbs.add_parser(
        "stats", parents=[read, found], help="print class frequencies, distances, coverage and colours"
    )
    stats.set_defaults(execute=_stats)

    plot = verbs.add_parser("plot", parents=[common], help="draw samples with their labels")
    plot.add_argument("--out", required=True, type=file_to_write, metavar="FILE.png")
    plot.add_argument("--split", choices=SPLITS, default="train")
    plot.add_argument("--count", type=int, default=4, help="number of samples, evenly spread (default 4)")
    plot.add_argument("--id", action="append", default=[], help="draw this sample instead; may be repeated")
    plot.add_argument("--augmented", action="store_true", help="augment the samples as in training")
    plot.set_defaults(execute=_plot)

    pack = verbs.add_parser("pack", parents=[read], help="write WebDataset tar files for ShardsDataModule")
    pack.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    pack.add_argument("--shard-size", type=int, default=500, help="samples per file (default 500)")
    pack.set_defaults(execute=_pack)

    prepare = verbs.add_parser("prepare", help="make panoramas from a release that has none")
    prepare.add_argument("name", choices=("matterport3d",))
    prepare.add_argument("--root", required=True, type=Path, metavar="DIR", help="the release")
    prepare.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder, or one to continue")
    prepare.add_argument("--height", type=int, default=512, help="rows; a panorama is twice as wide (default 512)")
    prepare.add_argument("--workers", type=int, default=1, help="processes, about 2 GB of memory each (default 1)")
    prepare.set_defaults(execute=_prepare)


def _build_data(options: argparse.Namespace) -> "LightningDataModule":
    from mtpano_zoo.training.data_by_name import build_data

    config = options.config and with_shipped_configs(["data", "--config", options.config])[-1]
    return build_data(options.data, options.root, options.options, config)


def _verify(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.inspection import verify, write_skip_list

    data = _build_data(options)
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


def _run(options: argparse.Namespace) -> int:
    import torch

    from mtpano_zoo.manifest import describe_model
    from mtpano_zoo.models import prepare_for_inference
    from mtpano_zoo.run import find_images, run
    from mtpano_zoo.zoo import load_model

    images = find_images(options.sources, options.out)  # fails before gigabytes are loaded
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(options.model, device)
    prepared = prepare_for_inference(model, options.precision, winograd=False if options.compile else None)
    if options.compile:
        prepared.compile(fullgraph=True)
    # A process takes seconds to start, which does not pay off for a few panoramas.
    workers = min((os.cpu_count() or 1) - 1, len(images) // 16) if options.workers is None else options.workers
    report = run(
        images,
        prepared,
        options.out,
        batch_size=options.batch_size,
        precision=options.precision,
        mask_sky=options.mask_sky,
        blend_seam=options.blend_seam,
        max_distance=options.max_distance,
        depth_range=options.depth_range and tuple(options.depth_range),
        level=options.level,
        overwrite=options.overwrite,
        workers=workers,
        panel=not options.no_panel,
        described=describe_model(model, options.model),
        scenes=[kind for kind in ("ply", "glb") if getattr(options, kind)],
        stride=options.stride,
    )
    print(report.summary())
    if report.written or report.skipped:
        print(f"The results are in {options.out}")
    return report.exit_code


def _export(options: argparse.Namespace) -> int:
    from mtpano_zoo.network_export import check_destination, export
    from mtpano_zoo.zoo import load_model

    if options.width is not None and options.height is None:
        raise InputError("--width needs --height: pass both, or only --height")
    check_destination(options.out, options.format, options.overwrite)
    size = None
    if options.height is not None:
        size = (options.height, 2 * options.height if options.width is None else options.width)
    model = load_model(options.model)
    print("writing and checking the file: this takes minutes", file=sys.stderr)
    written = export(model, options.out, options.format, size, options.overwrite)
    print(f"{' and '.join(map(str, written))}: agrees with PyTorch within 1e-4")
    return 0


def _export_scene(options: argparse.Namespace) -> int:
    from mtpano_zoo.export_scene import export_scene

    how = {key: getattr(options, key) for key in ("poses", "views", "size", "nadir", "one_scale")}
    count = export_scene(options.results, options.images, options.out, **how)
    print(f"{count} panoramas are in {options.out}" + (f", each as {options.views} views" if options.views else ""))
    return 0


def _models(options: argparse.Namespace) -> int:
    from mtpano_zoo.zoo.entries import list_models, models_table

    titles, *rows = models_table(options.pattern)
    if not rows:
        suggestion = did_you_mean(nearest(options.pattern, list_models()))
        raise InputError(f"No model matches {options.pattern!r}{suggestion} `mtpano models` lists all names.")
    if options.markdown:
        for row in (titles, ["---"] * len(titles), *rows):
            print(f"| {' | '.join(row)} |")
        return 0
    for name, *values in rows:
        print(name)
        for title, value in zip(titles[1:], values, strict=True):
            print(f"  {title:<24}{value}")
    return 0


def _rooms(options: argparse.Namespace) -> int:
    from mtpano_zoo.data.rooms_writer import write_rooms

    size = (options.height, 2 * options.height)
    write_rooms(options.out, options.split, options.count, *size, options.seed, options.kind, options.tilt)
    print(f"{options.count} {options.kind} are in {options.out}")
    return 0


def _quickstart(options: argparse.Namespace) -> int:
    from mtpano_zoo.quickstart import quickstart

    quickstart(options.config, options.out, options.images)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
