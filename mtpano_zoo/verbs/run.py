"""`mtpano run`: predict for files and folders."""

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtpano_zoo.machine.cores import available_cores
from mtpano_zoo.machine.garbage import no_collection
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.resources import DEFAULT_MODEL
from mtpano_zoo.short_verbs import (
    Verbs,
    add_level_option,
    add_reading_options,
    number_of,
    number_of_processes,
    reading_options,
    report_to_write,
)

if TYPE_CHECKING:
    from torch import nn

    from mtpano_zoo.run import RunReport

__all__ = ("add",)

FRAMES = 100  # a video counts as this many panoramas


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano run`."""
    run = verbs.add_parser("run", help="predict for panoramas: files, folders, videos")
    run.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="an image, a video, a folder of images, a pattern in quotes, or @list.txt of these",
    )
    run.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_PATH",
        help="a name from `mtpano models` or a checkpoint (default %(default)s)",
    )
    run.add_argument(
        "--out",
        default=Path("predictions"),
        type=user_path,
        metavar="DIR",
        help="folder for the results (default %(default)s)",
    )
    run.add_argument(
        "--batch-size", type=number_of("images"), default=1, help="panoramas per forward pass (default %(default)s)"
    )
    run.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="arithmetic of the network (default %(default)s)",
    )
    run.add_argument("--mask-sky", action="store_true", help="drop depth and normals where the class is sky")
    run.add_argument(
        "--blend-seam", action="store_true", help="smooth depth and normals across the left and right edge"
    )
    run.add_argument(
        "--max-distance", type=float, metavar="METRES", help="drop depth beyond one of the network's ranges (DAP)"
    )
    run.add_argument(
        "--depth-range",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="metres that the depth colours span (default: the range of each image, or of all frames of a video)",
    )
    run.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="videos: time constant over which depth and normals are smoothed, e.g. 0.2 (default: not at all)",
    )
    add_level_option(run)
    add_reading_options(run)
    written = report_to_write(lambda found: "written" in found)
    run.add_argument("--json", type=written, metavar="FILE", help="write the outcome for every file as JSON")
    run.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU of this process, if there is one)")
    run.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    run.add_argument(
        "--workers",
        type=number_of_processes,
        help="number of writer processes (default: depends on panoramas and cores)",
    )
    run.add_argument("--no-panel", action="store_true", help="skip the panel of all maps, which is slow to draw")
    run.add_argument("--ply", action="store_true", help="also write a point cloud with colours and normals")
    run.add_argument("--glb", action="store_true", help="also write a textured mesh, for browsers and Blender")
    run.add_argument(
        "--stride", type=int, help="--ply and --glb use every N-th row and column (default: at most 512 rows remain)"
    )
    run.add_argument(
        "--compile", action="store_true", help="compile first, which takes minutes: for many panoramas on a GPU"
    )
    run.add_argument(
        "--graphs", action="store_true", help="on a GPU: record CUDA graphs, one per image size, for small batches"
    )
    run.add_argument("--tf32", action="store_true", help="on a GPU: compute float32 products in TF32 (10-bit mantissa)")
    run.set_defaults(execute=_run)


def _run(options: argparse.Namespace) -> int:
    from mtpano_zoo.image_files import check_present, is_video, search_images
    from mtpano_zoo.zoo.places import locate

    found = search_images(options.sources, options.out, videos=True)
    locate(options.model)
    check_present(found.images)
    cores = available_cores()
    with no_collection():
        from mtpano_zoo.manifest import describe_model
        from mtpano_zoo.run import run  # takes seconds to import, as torch does: report mistakes before that

        model = _load(options, cores)
        gc.freeze()  # keeps these million objects out of every garbage collection, including the one at exit
    prepared = _prepare(model, options)
    # A process takes seconds to start, which does not pay off for a few panoramas; it does for a video.
    expected = sum(FRAMES if is_video(path) else 1 for path in found.images)
    workers = min(cores - 1, expected // 16) if options.workers is None else options.workers
    report = run(
        found.images,
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
        smooth=options.smooth,
        **reading_options(options),
    )
    report.passed_over = found.passed_over
    _tell(report, options)
    return report.exit_code


def _load(options: argparse.Namespace, cores: int) -> "nn.Module":
    """Load the network onto its device, and set the number of threads."""
    import torch

    from mtpano_zoo.machine.device import default_device
    from mtpano_zoo.zoo import load_model

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores)
    device = options.device or default_device()
    model = load_model(options.model, device)
    if device == "cpu":
        print(f"threads: {torch.get_num_threads()} (cores available: {cores})", file=sys.stderr)
    return model


def _prepare(model: "nn.Module", options: argparse.Namespace) -> "nn.Module":
    """Return the network as it predicts fastest, with the options for speed."""
    import torch

    from mtpano_zoo.models import prepare_for_inference

    if options.tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    winograd = False if options.compile else None
    prepared = prepare_for_inference(model, options.precision, winograd=winograd, graphs=options.graphs)
    if options.compile:
        # With graphs, compile what is recorded.
        (prepared.network if options.graphs else prepared).compile(fullgraph=True)
    return prepared


def _tell(report: "RunReport", options: argparse.Namespace) -> None:
    """Print the outcome, and write it as JSON if a file is named."""
    print(report.summary())
    if options.json:
        import json

        from mtpano_zoo.image_io import write_bytes

        about = {"model": options.model, "out": str(options.out), **report.as_plain_data()}
        write_bytes(options.json, json.dumps(about, indent=1).encode())
    if report.written or report.skipped:
        print(f"The results are in {options.out}")
