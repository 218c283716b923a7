import multiprocessing
import time

import pytest
import torch

from mtpano_zoo import workers
from mtpano_zoo.run import _save
from mtpano_zoo.workers import asked_to_stop, stoppable


@pytest.fixture(params=[0, 2])
def count(request, monkeypatch):
    # A fresh process needs seconds to import torch.
    monkeypatch.setattr(workers, "get_context", lambda _: multiprocessing.get_context("fork"))
    return request.param


def work(folder, name, steps=100):
    for step in range(steps):
        if asked_to_stop():
            return
        (folder / f"{name}-{step}").touch()
        time.sleep(0.05)


def test_an_interrupt_drops_what_waits_and_ends_what_runs(count, tmp_path):
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), stoppable(count) as executor:
        for name in "abcdefgh":
            executor.submit(work, tmp_path, name)
        while not any(tmp_path.iterdir()):
            time.sleep(0.01)
        raise KeyboardInterrupt
    done = {path.name for path in tmp_path.iterdir()}
    assert time.monotonic() - begin < 5  # 100 steps of eight would be 40 seconds in a thread
    assert {name[0] for name in done} <= set("abcd") and not any(name.endswith("-99") for name in done)
    time.sleep(0.2)
    assert {path.name for path in tmp_path.iterdir()} == done  # nothing goes on behind our back


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


def test_a_writer_that_is_asked_to_stop_completes_its_file(tmp_path):
    written = []

    class Slow:
        def save_each(self, *_, **__):
            for i in range(5):
                written.append(i)
                if i == 2:
                    begun.append(True)
                    time.sleep(0.2)
                yield i

    begun = []
    with pytest.raises(KeyboardInterrupt), stoppable(0) as executor:
        for name in "ab":
            executor.submit(_save, Slow(), tmp_path, name, panel=True)
        while not begun:
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert written == [0, 1, 2]
