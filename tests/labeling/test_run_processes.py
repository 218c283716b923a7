"""`mtpano label`: processes that are killed, asked to end, or share the work."""

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections import Counter

import pytest
from PIL import Image
from tiny_labeling import HEIGHT, ROOMS, WIDTH, config, grey, labels_of
from waiting import until

from mtpano_zoo.cli import main
from mtpano_zoo.labeling import writer

pytestmark = pytest.mark.slow


def _command(arguments, environment, log):
    os.setpgid(0, 0)  # with the processes that it starts
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
    with open(log, "a", buffering=1) as file:  # noqa: PTH123 - line by line, for what is killed
        sys.stdout = sys.stderr = file
        status = main(arguments)
    os._exit(status)


@pytest.fixture
def start():
    """Start the command in its own process, without importing everything again; no process outlives the test."""
    processes = []

    def begin(arguments, log, **environment):
        process = multiprocessing.get_context("fork").Process(target=_command, args=(arguments, environment, str(log)))
        process.start()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.join()  # without a limit, which would wait for the loader's workers too; it is dead


def end_of(process, seconds=100):
    """Wait for a process and return its status."""
    until(lambda: not process.is_alive(), seconds)
    return process.exitcode


def test_killed_at_any_moment_and_restarted(tmp_path, whole, start):
    """Byte for byte what an undisturbed run writes, and nothing else."""
    out = tmp_path / "out"
    arguments = ["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(out), "--num_workers=1"]
    moments = random.Random(0)
    for kill in range(3):
        process = start(arguments, tmp_path / "log")
        wanted = moments.randrange(kill, kill + 3)  # panoramas that are finished by then
        until(lambda wanted=wanted, one=process: len(list((out / "img").glob("*"))) >= wanted or not one.is_alive())
        time.sleep(moments.uniform(0, 0.05))  # any moment of the next one
        process.kill()
        end_of(process)
        for image in (out / "img").glob("*"):
            finished = {path: data for path, data in labels_of(out).items() if f"/{image.stem}" in path}
            expected = {path: data for path, data in labels_of(whole).items() if f"/{image.stem}" in path}
            assert finished == expected
    assert end_of(start(arguments, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert labels_of(out) == labels_of(whole)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("kind", "everyone", "status", "told"),
    [
        (signal.SIGTERM, False, 1, "the process was asked to end"),
        (signal.SIGTERM, True, 1, "the process was asked to end"),
        (signal.SIGINT, False, 130, "interrupted; finished results are kept"),
        (signal.SIGINT, True, 130, "interrupted; finished results are kept"),
    ],
)
def test_asked_to_end(kind, everyone, status, told, tmp_path, start):
    """Asked by the system or by Ctrl-C, alone or with the processes that read, it ends at once, in order."""
    data = {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": 500}}
    out = tmp_path / "out"
    path = config(tmp_path / "tiny.yaml", data=data)
    process = start(["label", "--config", path, "--out", str(out), "--num-workers=2"], tmp_path / "log")
    until(lambda: len(list((out / "img").glob("*"))) >= 2 or not process.is_alive())
    (os.killpg if everyone else os.kill)(process.pid, kind)
    assert end_of(process) == status, (tmp_path / "log").read_text()
    assert told in (tmp_path / "log").read_text()  # a reader may still write that nobody takes its panorama
    assert not list(out.glob(".*"))
    finished = {path.stem for path in (out / "img").iterdir()}
    assert 2 <= len(finished) < 500
    assert set(json.loads((out / "db_info" / "panomtdu_train.json").read_text())) == finished


def noted(log):
    """Which process labelled which panorama, from the teacher's log."""
    return [tuple(line.split()) for line in log.read_text().splitlines()]


def test_processes_that_are_started_independently_share_the_work(photos, tmp_path, start):
    """Each of them labels a part, next to nothing is labelled twice, and the files are those of one process."""
    for i in range(5, 16):
        Image.new("RGB", (WIDTH, HEIGHT), (9 * i,) * 3).save(photos / f"p{i}.png")
    teachers = [
        {"class_path": "tiny_labeling.Meets", "init_args": {"log": str(tmp_path / "log"), "processes": 2, "rounds": 4}}
    ]
    path = config(tmp_path / "tiny.yaml", **grey() | {"teachers": teachers})
    arguments = ["label", str(photos), "--config", path, "--num_workers=1", "--writers=1"]
    started = [start([*arguments, "--out", str(tmp_path / "both")], tmp_path / f"log-{i}") for i in range(2)]
    assert [end_of(process) for process in started] == [0, 0], [(tmp_path / f"log-{i}").read_text() for i in range(2)]
    notes = noted(tmp_path / "log")
    counts = [sum(process == str(one.pid) for process, _ in notes) for one in started]
    assert {name for _, name in notes} == {f"p{i}" for i in range(16)}
    # At the end, each may do again what the other holds then: 3 that are read ahead, 1 at work and 2 to be written.
    assert min(counts) >= 4 and sum(counts) <= 16 + 2 * 6 and max(Counter(name for _, name in notes).values()) <= 2
    records = [json.loads(path.read_text())["counts"] for path in (tmp_path / "both" / "runs").iterdir()]
    assert sum(record["labelled"] for record in records) == 16  # though two may finish one at the same moment
    assert all(record["labelled"] + record["skipped"] == 16 and not record["failed"] for record in records)
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert labels_of(tmp_path / "both") == labels_of(tmp_path / "one")
    assert not list((tmp_path / "both").glob(".*"))


def test_a_process_takes_over_from_one_that_was_killed(photos, tmp_path, start):
    """It does so at once, without waiting for a claim to expire."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "p2.png")
    teachers = [{"class_path": "tiny_labeling.Meets", "init_args": {"log": str(tmp_path / "log"), "processes": 2}}]
    out, path = tmp_path / "out", config(tmp_path / "tiny.yaml", **grey() | {"teachers": teachers})
    arguments = ["label", str(photos), "--config", path, "--out", str(out), "--num_workers=1"]
    started = [start(arguments, tmp_path / f"log-{i}") for i in range(2)]
    codes = [end_of(process) for process in started]
    assert sorted(codes) == [-signal.SIGKILL, 0], [(tmp_path / f"log-{i}").read_text() for i in range(2)]
    assert sorted(path.stem for path in (out / "img").iterdir()) == [f"p{i}" for i in range(5)]
    assert json.loads((out / "db_info" / "panomtdu_train.json").read_text()) == [f"p{i}" for i in range(5)]
    assert main(arguments) == 0
    assert not list(out.glob(".*"))


def begin_ranks(start, arguments, folder, count=2, others=()):
    """Start the command as `torchrun` does, in processes that find each other over the loopback interface.

    All but the first also have the options `others`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        environment = {
            "TORCHELASTIC_RUN_ID": "test",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        options = ["--trainer.strategy=ddp", f"--trainer.devices={count}", *(others if rank else ())]
        processes.append(start([*arguments, *options], folder / f"log-{rank}", **environment))
    return processes


def ranks(start, arguments, folder, count=2, others=()):
    """Run the command in processes and return their statuses and what they wrote."""
    processes = begin_ranks(start, arguments, folder, count, others)
    return [end_of(process) for process in processes], [(folder / f"log-{i}").read_text() for i in range(count)]


def test_two_processes_write_what_one_writes(tmp_path, whole, start):
    out = tmp_path / "out"
    codes, logs = ranks(start, ["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(out)], tmp_path)
    assert codes == [0, 0], logs
    assert labels_of(out) == labels_of(whole)
    assert not list(out.glob(".*"))
    assert f"{ROOMS} labelled" in logs[0]
    assert "labelled" not in logs[1]
    (record,) = (json.loads(path.read_text()) for path in (out / "runs").iterdir())
    assert record["counts"]["labelled"] == ROOMS
    assert record["processes"] == 2


def test_processes_with_different_settings_are_refused_before_anything_is_written(tmp_path, start):
    out = tmp_path / "out"
    arguments = ["label", "--config", config(tmp_path / "tiny.yaml"), "--out", str(out)]
    codes, logs = ranks(start, arguments, tmp_path, others=["--keep_views=false"])
    assert codes == [1, 1], logs
    assert all("(keep_views is True in process 0 and False in process 1)" in log.splitlines()[-1] for log in logs), logs
    assert not out.exists()


def test_a_process_with_nothing_left_to_do_does_not_disturb_the_other(photos, tmp_path, start):
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    assert main(arguments) == 0
    before = labels_of(out)
    (out / "img" / "p3.jpg").unlink()  # the share of the second process is p1 and p3
    codes, logs = ranks(start, arguments, tmp_path)
    assert codes == [0, 0], logs
    assert "1 labelled" in logs[0] and "4 skipped" in logs[0]
    assert labels_of(out) == before
    assert not list(out.glob(".*"))


def test_a_failure_in_one_process_does_not_disturb_the_other(photos, tmp_path, start):
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "p1.png")
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--config", config(tmp_path / "tiny.yaml", **grey()), "--out", str(out)]
    codes, logs = ranks(start, arguments, tmp_path)
    assert codes == [1, 1], logs
    assert "p1: RuntimeError: it is too dark" in logs[0]
    assert sorted(path.stem for path in (out / "img").iterdir()) == ["p0", "p2", "p3", "p4"]


def test_a_process_that_dies_does_not_hang_the_other(photos, tmp_path, start):
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "p1.png")
    out = tmp_path / "out"
    path = config(tmp_path / "tiny.yaml", **grey(dies=True))
    codes, logs = ranks(start, ["label", str(photos), "--config", path, "--out", str(out)], tmp_path)
    assert codes == [1, -signal.SIGKILL], logs
    assert "another process of this run has died" in logs[0]
    assert {"p0", "p2", "p4"} <= {path.stem for path in (out / "img").iterdir()}


def test_a_process_that_is_asked_to_end_does_so_when_the_other_is_dead(tmp_path, start):
    """`torchrun` asks the others to end once a process has died."""
    data = {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": 1000}}
    out = tmp_path / "out"
    arguments = ["label", "--config", config(tmp_path / "tiny.yaml", data=data), "--out", str(out)]
    first, second = begin_ranks(start, arguments, tmp_path)
    until(lambda: len(list((out / "img").glob("*"))) >= 4 or not first.is_alive())
    second.kill()
    end_of(second)
    os.kill(first.pid, signal.SIGTERM)
    assert end_of(first) == 1
    log = (tmp_path / "log-0").read_text()
    assert "the process was asked to end" in log and "failed" not in log
    assert len(list((out / "img").iterdir())) < 500
    (record,) = (json.loads(path.read_text()) for path in (out / "runs").iterdir())
    assert record["counts"]["failed"] == 0


def test_a_process_that_waits_for_others_can_be_asked_to_end(tmp_path, start, monkeypatch):
    monkeypatch.setattr(writer, "PATIENCE", 1.0)
    data = {"class_path": "RoomsDataModule", "init_args": {"height": HEIGHT, "width": WIDTH, "train_count": 1000}}
    out = tmp_path / "out"
    arguments = ["label", "--config", config(tmp_path / "tiny.yaml", data=data), "--out", str(out)]
    first, second = begin_ranks(start, arguments, tmp_path)
    until(lambda: len(list((out / "img").glob("*"))) >= 4 or not first.is_alive())
    os.kill(second.pid, signal.SIGSTOP)  # it goes on forever
    os.kill(first.pid, signal.SIGTERM)
    assert end_of(first) == 1
    assert "the process was asked to end" in (tmp_path / "log-0").read_text()
