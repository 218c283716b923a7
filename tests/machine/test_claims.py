"""Which process labels what: by locks of the system, which never outlive their process."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal

import pytest

from mtpano_zoo.labeling.storage import LabelFolder
from mtpano_zoo.machine.claims import Claims

SECONDS = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".claims"


def _answer(path, pipe):
    claims = Claims(path)
    while request := pipe.recv():
        kind, name = request
        pipe.send(getattr(claims, kind)(name))
    claims.close()
    pipe.send("closed")


@contextlib.contextmanager
def another(path):
    """Another process, which claims what it is asked to."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(path, theirs))
    process.start()
    try:
        yield lambda *request: _ask(ours, request), process
    finally:
        process.kill()
        process.join(SECONDS)


def _ask(pipe, request):
    pipe.send(request)
    assert pipe.poll(SECONDS), "the other process does not answer"
    return pipe.recv()


def test_one_process_has_a_panorama(path):
    claims = Claims(path)
    with another(path) as (ask, _):
        assert ask("take", "a")
        assert not claims.take("a")
        assert claims.take("b")
        assert not ask("take", "b")
        ask("release", "a")
        assert claims.take("a")
        assert ask("take", "\udcff")  # of a file name that is no text
    claims.close()


def test_a_killed_process_has_nothing(path):
    claims = Claims(path)
    with another(path) as (ask, process):
        assert ask("take", "a")
        os.kill(process.pid, signal.SIGKILL)
        process.join(SECONDS)
        assert claims.take("a")
    claims.close()
    assert not path.exists()


def test_the_last_process_removes_the_file(path):
    claims = Claims(path)
    with another(path) as (ask, _):
        assert ask("take", "a")
        claims.close()
        assert path.exists()
        assert ask() == "closed"
        assert not path.exists()


def test_a_link_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Claims(path)
    assert not (tmp_path / "elsewhere").exists()


def test_without_locks_everybody_gets_everything(path, monkeypatch):
    """As on some file systems of many machines: the labels are the same, made twice."""

    def missing(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", missing)
    claims = Claims(path)
    assert claims.take("a")
    claims.release("a")
    claims.close()


def test_a_folder_that_is_not_open_claims_nothing(tmp_path):
    folder = LabelFolder(tmp_path)
    assert folder.claim("a")
    folder.release("a")
    assert not list(tmp_path.iterdir())
