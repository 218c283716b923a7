"""`mtpano convert`: convert camera images to panoramas."""

import argparse

from mtpano_zoo.output_paths import check_no_input, user_path
from mtpano_zoo.short_verbs import Verbs, add_max_pixels_option, file_to_write

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parsers of `mtpano convert` and its verbs."""
    convert: argparse.ArgumentParser = verbs.add_parser("convert", help="make a panorama from fisheye images")
    inner = convert.add_subparsers(title="verbs", metavar="VERB", required=True)
    fisheye = inner.add_parser("fisheye", help="from one image with the circles of all lenses, and a calibration")
    fisheye.add_argument("image", type=user_path, metavar="PAIR.jpg", help="image with the circles of all lenses")
    fisheye.add_argument(
        "--calibration",
        required=True,
        type=user_path,
        metavar="FILE.yaml",
        help="lenses of the image, see docs/files.md",
    )
    fisheye.add_argument("--out", required=True, type=file_to_write, metavar="PANO.jpg", help="file to write")
    fisheye.add_argument("--height", type=int, help="rows (default: the pixel density of the image)")
    fisheye.add_argument("--overwrite", action="store_true", help="replace a file that is already there")
    add_max_pixels_option(fisheye)
    fisheye.set_defaults(execute=_fisheye)


def _fisheye(options: argparse.Namespace) -> int:
    for path in (options.image, options.calibration):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    check_no_input(options.out, [options.image, options.calibration])
    from mtpano_zoo.commands.convert_fisheye import convert_fisheye, read_calibration  # PyTorch takes seconds to import

    calibration = read_calibration(options.calibration)
    unseen = convert_fisheye(
        options.image,
        calibration,
        options.out,
        rows=options.height,
        overwrite=options.overwrite,
        max_pixels=options.max_pixels,
    )
    rest = f"; no lens sees {100 * unseen:.1f} % of the sphere" if unseen else ""
    print(f"The panorama is {options.out}{rest}")
    return 0
