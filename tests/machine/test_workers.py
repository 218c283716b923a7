import multiprocessing
import threading
import time

import pytest
import torch
from waiting import until

from mtpano_zoo.machine import workers
from mtpano_zoo.machine.workers import asked_to_stop, stoppable


@pytest.fixture(params=[0, 2])
def count(request, monkeypatch):
    # A fresh process needs seconds to import torch.
    monkeypatch.setattr(workers, "get_context", lambda _: multiprocessing.get_context("fork"))
    return request.param


def test_the_thread_has_started_before_it_is_given_work():
    """Nobody waits for a thread if Ctrl-C comes while it starts."""
    threads = threading.active_count()
    with stoppable(0):
        assert threading.active_count() == threads + 1


def work(folder, name, steps=100):
    unfinished = folder / f"{name}-unfinished"
    try:
        unfinished.touch()  # in the block, because an interrupt may come as soon as the file is there
        for step in range(steps):
            if asked_to_stop():
                return
            (folder / f"{name}-{step}").touch()
            time.sleep(0.05)  # so that all steps together take longer than any interrupt
    finally:
        unfinished.unlink(missing_ok=True)


def test_an_interrupt_drops_what_waits_and_ends_what_runs(count, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), stoppable(count) as executor:
        for name in "abcdefgh":
            executor.submit(work, tmp_path, name)
        until(lambda: any(tmp_path.iterdir()))
        raise KeyboardInterrupt
    done = {path.name for path in tmp_path.iterdir()}
    assert {name[0] for name in done} <= set("abcd") and not any(name.endswith(("-99", "-unfinished")) for name in done)
    assert capsys.readouterr().err == "stopping: what is not written yet is dropped\n"
    assert not multiprocessing.active_children()  # nothing goes on behind our back


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_any_other_end_waits_for_the_work(count, tmp_path, error):
    try:
        with stoppable(count) as executor:
            for name in "abc":
                executor.submit(work, tmp_path, name, 2)
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}-{step}" for name in "abc" for step in range(2)}


def test_processes_have_the_threads_that_they_are_given(monkeypatch):
    monkeypatch.setattr(workers, "get_context", lambda _: multiprocessing.get_context("fork"))
    with stoppable(1, threads=3) as executor:
        assert executor.submit(torch.get_num_threads).result() == 3
    assert not asked_to_stop()


def test_a_process_that_has_nothing_to_do_ends_too(monkeypatch):
    monkeypatch.setattr(workers, "get_context", lambda _: multiprocessing.get_context("fork"))
    with pytest.raises(KeyboardInterrupt), stoppable(1) as executor:
        executor.submit(abs, -1).result()
        (process,) = multiprocessing.active_children()
        raise KeyboardInterrupt
    assert not process.is_alive() and not multiprocessing.active_children()


def test_processes_of_others_are_left_alone(monkeypatch):
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers, "get_context", lambda _: context)
    other = context.Process(target=time.sleep, args=(60,))
    other.start()
    with pytest.raises(KeyboardInterrupt), stoppable(1) as executor:
        executor.submit(abs, -1).result()
        raise KeyboardInterrupt
    assert other.is_alive()
    other.kill()
    other.join()
