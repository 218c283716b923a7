"""Functions in processes of their own, which need not import everything again."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from waiting import until

# What has computed gradients where there is a GPU cannot be forked.
CONTEXT = multiprocessing.get_context("spawn" if torch.accelerator.is_available() else "fork")


def begin(
    target: Callable[..., object], *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start a process that calls a function; what it writes goes to a file. Whoever starts it ends it."""
    process = CONTEXT.Process(target=_call, args=(target, arguments, log, dict(environment or {})))
    process.start()
    return process


def side_by_side(
    target: Callable[..., object], *arguments: Any, folder: Path, count: int = 2, seconds: float = 400
) -> None:
    """Call `target(rank, *arguments)` in processes that find each other like those of `torchrun`; none outlives this.

    Raises:
        AssertionError: If one of them fails, or does not end within so many seconds, with what all have written.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "PL_GLOBAL_SEED": "0"}
    logs = [folder / f"rank-{rank}.txt" for rank in range(count)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(begin(target, rank, *arguments, log=log, environment=environment))
        until(lambda: all(p.exitcode == 0 for p in processes) or any(p.exitcode for p in processes), seconds)
    finally:
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
    assert codes == [0] * count, "\n".join(log.read_text()[-3000:] for log in logs)


def _call(target: Callable[..., object], arguments: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    status = 0
    with log.open("w", buffering=1) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        sys.stdout = sys.stderr = file
        try:
            target(*arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # not to be handled by pytest, of which this is a copy
            traceback.print_exc()
            status = 1
    os._exit(status)  # no waiting for the other
