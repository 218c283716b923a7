"""`mtpano view`: look around in a panorama and its maps, walk through the scene, and measure."""

import argparse
import sys
from typing import TYPE_CHECKING

from mtpano_zoo.errors import InputError, Terminated
from mtpano_zoo.output_paths import check_no_input, printable, user_path
from mtpano_zoo.resources import DEFAULT_MODEL
from mtpano_zoo.short_verbs import Verbs, add_level_option, add_reading_options, file_to_write, reading_options

if TYPE_CHECKING:
    from mtpano_zoo.prediction import Prediction

__all__ = ("add",)

PORT = 8360


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano view`."""
    view = verbs.add_parser("view", help="look around in a panorama and its maps, walk through the scene, measure")
    view.add_argument(
        "source",
        type=user_path,
        metavar="RESULT_OR_IMAGE",
        help="a folder of results, one result (results/room), or an image",
    )
    view.add_argument("--html", type=file_to_write, metavar="FILE", help="write one page that needs no server")
    view.add_argument("--overwrite", action="store_true", help="replace a page that is already there")
    view.add_argument("--port", type=int, default=PORT, help="port to serve on (default %(default)s; 0: any free one)")
    view.add_argument(
        "--image", type=user_path, metavar="PATH", help="panorama of the result, or the folder that holds it"
    )
    view.add_argument(
        "--model", metavar="NAME_OR_PATH", help=f"network that predicts for an image (default {DEFAULT_MODEL})"
    )
    view.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU of this process, if there is one)")
    add_level_option(view)
    add_reading_options(view)
    view.set_defaults(execute=_view)


def _view(options: argparse.Namespace) -> int:
    from mtpano_zoo.viewer.page import check_page, page, write_page
    from mtpano_zoo.viewer.results import find_results, read_result
    from mtpano_zoo.viewer.server import Server

    if options.html:
        check_no_input(options.html, [options.source, *([options.image] if options.image else [])])
        check_page(options.html, options.overwrite)
    results = find_results(options.source)
    if results is not None:
        _check_unused(options)
    elif options.image:
        raise InputError(f"{options.source} is an image, and --image names the panorama of a result: leave it out")
    names = (options.source.name,) if results is None else results.names
    if options.html and results is not None and len(names) > 1:
        raise InputError(f"{options.source} has {len(names)} results: name one, such as {results.folder / names[0]}")

    def read(name: str) -> "Prediction":
        prediction = _predicted(options) if results is None else read_result(results.folder, name, options.image)
        for doubt in prediction.doubts:
            shown = options.source if results is None else results.folder / name
            print(printable(f"{shown}: {doubt}"), file=sys.stderr)
        return prediction

    if options.html:
        write_page(options.html, read(names[0]), names[0], options.overwrite)
        print(printable(f"The page is {options.html} ({options.html.stat().st_size / 1e6:.1f} MB)"))
        return 0
    with Server(names, lambda name: page(read(name), name), options.port) as server:
        if len(names) == 1:
            status, content = server.content("/")  # report mistakes before anyone opens the page
            if status != 200:
                raise InputError(content.decode())
        print(f"{server.address} (press Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt as end:
            print()
            if isinstance(end, Terminated):
                raise
    return 0


def _check_unused(options: argparse.Namespace) -> None:
    """Refuse options of a prediction, since the results have been predicted before."""
    of_a_prediction = {"model": options.model, "device": options.device, "level": options.level is not None}
    for name, value in {**of_a_prediction, **reading_options(options)}.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} does not change the result {options.source}: leave it out, or name the image")


def _predicted(options: argparse.Namespace) -> "Prediction":
    from mtpano_zoo.machine.device import default_device
    from mtpano_zoo.prediction import Prediction, predict
    from mtpano_zoo.zoo import load_model

    network = load_model(options.model or DEFAULT_MODEL, options.device or default_device())
    prediction = predict(network, options.source, level=options.level, **reading_options(options))
    if not isinstance(prediction, Prediction):
        raise InputError(f"{options.source} holds several panoramas")
    return prediction
