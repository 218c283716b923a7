"""The `mtpano` command: Lightning's verbs for training and scoring, and short verbs for everything else."""

import argparse
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import mtpano_zoo
from mtpano_zoo.errors import InputError, Terminated
from mtpano_zoo.resources import with_shipped_configs
from mtpano_zoo.short_verbs import TRACEBACK, ShortVerbParser
from mtpano_zoo.verbs import (
    convert,
    data,
    evaluate,
    export,
    export_scene,
    generate,
    models,
    quickstart,
    rooms,
    run,
    view,
)

__all__ = ("main",)

LIGHTNING_VERBS = {
    "fit": "train a network: mtpano fit --config quickstart.yaml",
    "validate": "score a checkpoint on the validation set",
    "test": "score a checkpoint on the test set",
    "predict": "predict for every sample of a data module",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    A user's mistake is printed as one sentence on standard error, or raised with `--traceback`. Any other exception is
    a bug and is always raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = [argument for argument in arguments if argument != TRACEBACK]
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold undecodable bytes
    try:
        status = _execute(wanted or ["--help"])
        if sys.stdout:  # None if it was closed from the start
            sys.stdout.flush()
        return status
    except (InputError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
            return 141  # what a shell reports for a program that a closed pipe ended
        if len(wanted) < len(arguments):
            raise
        print(f"mtpano: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as end:
        print("mtpano: interrupted; finished results are kept.", *end.args, file=sys.stderr)
        return 143 if isinstance(end, Terminated) else 130


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Stop on SIGTERM as on Ctrl-C, so that temporary files are removed."""

    def terminate(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _execute(arguments: Sequence[str]) -> int:
    verb = arguments[0]
    if verb in LIGHTNING_VERBS:
        from mtpano_zoo.training.cli import main as lightning_main  # Lightning takes seconds to import
        from mtpano_zoo.training.cli import next_commands

        # Lightning itself ends `fit` between two steps, but `predict` not at all.
        with nullcontext() if verb == "fit" else _termination_as_interrupt():
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
    if verb == "generate":
        with _termination_as_interrupt():
            return generate.main(arguments[1:])
    options = build_parser().parse_args(arguments)
    with _termination_as_interrupt():
        status: int = options.execute(options)
    return status


def _output_is_closed() -> bool:
    """Return whether the reader of standard output, such as `head`, has ended."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows, or no standard output
        return False


def _sentence(error: Exception) -> str:
    text = str(error)
    if "\nOriginal Traceback" in text:  # torch puts a data worker's traceback into the message
        return text.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, OSError) and error.strerror and error.filename:  # leave out the error number
        return f"{error.filename}: {error.strerror}"
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

    for module in (run, view, evaluate, export, export_scene):
        module.add(verbs)
    # Parsed by mtpano_zoo.labeling, whose options are constructor arguments, and by mtpano_zoo.verbs.generate.
    verbs.add_parser("label", help="label panoramas with teachers that look at perspective views", add_help=False)
    verbs.add_parser("curate", help="label panoramas with a network, score the labels, select the best", add_help=False)
    verbs.add_parser("generate", help="generate panoramas from text, edit them, refine their poles", add_help=False)
    for module in (models, rooms, convert, data, quickstart):
        module.add(verbs)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
