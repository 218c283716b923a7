"""Waiting for what another thread or process does: as long as it takes, but not for ever."""

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence


def until(condition: Callable[[], object], seconds: float = 100) -> None:
    """Return once the condition holds; a machine that is busy only takes longer.

    Raises:
        AssertionError: If it does not hold within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"what was waited for did not happen in {seconds} seconds")
        time.sleep(0.002)


def exit_codes(commands: Iterable[Sequence[str]], environment: Mapping[str, str], seconds: float = 400) -> list[int]:
    """Run commands side by side and return their exit codes; none outlives this.

    Raises:
        TimeoutExpired: If one of them does not end within so many seconds.
    """
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        return [process.wait(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
