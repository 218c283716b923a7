"""A thread or processes that work beside a command, and end early when the command is interrupted."""

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

__all__ = ("asked_to_stop", "stoppable")

_worker = threading.local()  # of each thread or process that works: `stop`, the event that is set to end it


@contextmanager
def stoppable(workers: int, threads: int | None = None) -> Iterator[Executor]:
    """Start processes, or one thread for 0; leaving the block by Ctrl-C drops what waits and ends what runs early.

    What runs has to look at `asked_to_stop` between its steps. Any other way out of the block waits for all work.

    Args:
        workers: number of processes; a script that asks for them needs `if __name__ == "__main__":`.
        threads: for `torch`, in each process.
    """
    executor: Executor
    if workers == 0:
        stop: Any = threading.Event()
        executor = ThreadPoolExecutor(1, initializer=_start, initargs=(stop,))
    else:
        context = get_context("spawn")  # a process with a GPU and threads cannot be forked
        stop = context.Event()
        executor = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(stop, threads))
    with executor:
        try:
            yield executor
        except (KeyboardInterrupt, GeneratorExit) as end:
            if isinstance(end, KeyboardInterrupt):  # waiting takes a moment
                print("stopping: files that are being written are completed, the rest is left", file=sys.stderr)
            stop.set()
            executor.shutdown(cancel_futures=True)
            raise


def asked_to_stop() -> bool:
    """Whether this thread or process works for a command that was interrupted."""
    stop = getattr(_worker, "stop", None)
    return stop is not None and bool(stop.is_set())


def _start(stop: Any) -> None:
    _worker.stop = stop


def _start_process(stop: Any, threads: int | None) -> None:
    # Ctrl-C reaches all processes of a terminal: the first of them decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads is not None:
        torch.set_num_threads(threads)
    _start(stop)
