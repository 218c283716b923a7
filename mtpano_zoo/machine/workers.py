"""A thread or processes that work in the background of a command, and stop early when the command is interrupted."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

import torch

__all__ = ("asked_to_stop", "stoppable")

_worker = threading.local()  # of a thread: `stop`, the event that ends its work; of a process: whether it is `busy`


@contextmanager
def stoppable(workers: int, threads: int | None = None) -> Iterator[Executor]:
    """Start processes, or one thread for 0; Ctrl-C in the block drops waiting work and ends running work early.

    A process ends at once, but cleans up what it has begun; a thread has to check `asked_to_stop` between its steps.
    Leaving the block in any other way waits for all work.

    Args:
        workers: number of processes; a script that asks for them needs `if __name__ == "__main__":`.
        threads: PyTorch threads in each process. If omitted, PyTorch chooses.
    """
    stop, others = threading.Event(), set(active_children())
    executor: Executor
    if workers == 0:
        executor = ThreadPoolExecutor(1, initializer=_start_thread, initargs=(stop,))
        # Started now: the executor would not wait for the work of a thread whose start Ctrl-C interrupted.
        executor.submit(int).result()
    else:
        # Spawned, because a process with a GPU and threads cannot be forked.
        executor = _Processes(workers, get_context("spawn"), initializer=_start_process, initargs=(threads,))
    with executor:
        try:
            yield executor
        except (KeyboardInterrupt, GeneratorExit) as end:
            if isinstance(end, KeyboardInterrupt):  # a thread may need a moment
                print("stopping: what is not written yet is dropped", file=sys.stderr)
            stop.set()
            for process in set(active_children()) - others if workers else ():
                process.terminate()
            executor.shutdown(cancel_futures=True)
            raise


def asked_to_stop() -> bool:
    """Return whether this thread works for a command that was interrupted."""
    stop = getattr(_worker, "stop", None)
    return stop is not None and bool(stop.is_set())


class _Processes(ProcessPoolExecutor):
    """Processes that leave Ctrl-C, which reaches all processes of a terminal, to the one that started them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a process if none is idle, with Ctrl-C blocked, since it takes seconds until it can be ignored."""
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().submit(_work, fn, *args, **kwargs)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(_work, fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_thread(stop: threading.Event) -> None:
    _worker.stop = stop


def _start_process(threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if threads is not None:
        torch.set_num_threads(threads)


def _work(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        try:
            _worker.busy = True
            return fn(*args, **kwargs)
        finally:
            _worker.busy = False
    except SystemExit:  # the pool would treat it as a result, and go on with the next task
        os._exit(1)


def _leave(*_: Any) -> None:
    """End this process; running work is ended by an exception, so that it removes its temporary files."""
    if getattr(_worker, "busy", False):
        raise SystemExit
    os._exit(1)
