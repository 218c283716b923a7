"""The folder of labels: complete panoramas only, whatever stops a process, and however many write."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtpano_zoo.labeling.storage import LabelFolder

FILES = {"semseg/merged.png": b"classes", "depth/merged.png": b"metres", "depth/label_3.png": b"of view 3"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def tree(root):
    """All files by their paths."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_layout_and_nothing_temporary(root):
    with LabelFolder(root) as folder:
        assert folder.write("room", b"jpeg", FILES)
        assert folder.finished() == {"room"}
        assert folder.has("room")
        assert not folder.has("other")
    assert tree(root) == {
        "manifest.json": b"{}",
        "img/room.jpg": b"jpeg",
        "semseg/room/merged.png": b"classes",
        "depth/room/merged.png": b"metres",
        "depth/room/label_3.png": b"of view 3",
    }
    assert {path.name for path in root.iterdir()} == {"manifest.json", "img", "semseg", "depth"}


def test_what_is_finished_is_kept(root):
    with LabelFolder(root) as folder, LabelFolder(root) as other:
        assert other.write("room", b"theirs", FILES)
        before = tree(root)
        assert not folder.write("room", b"mine", {"depth/merged.png": b"mine"})
        after = tree(root)
    assert {path: data for path, data in after.items() if not path.startswith(".")} == {
        path: data for path, data in before.items() if not path.startswith(".")
    }


def test_what_has_no_image_is_replaced(root):
    (root / "depth" / "room").mkdir(parents=True)
    (root / "depth" / "room" / "merged.png").write_bytes(b"of a killed process")
    (root / "depth" / "room" / "label_9.png").write_bytes(b"of a killed process")
    with LabelFolder(root) as folder:
        assert not folder.has("room")
        assert folder.write("room", b"jpeg", FILES)
    assert {path.name for path in (root / "depth" / "room").iterdir()} == {"merged.png", "label_3.png"}
    assert (root / "depth" / "room" / "merged.png").read_bytes() == b"metres"


@pytest.mark.parametrize("failing", ["write_bytes", "rename"])
def test_a_full_disk_leaves_nothing_of_the_panorama(root, failing, monkeypatch):
    """At every single write and rename in turn."""

    class Full:
        def __init__(self, last):
            self.left, self.original = last, getattr(Path, failing)

        def patch(self):
            def patched(path, *arguments):
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self.original(path, *arguments)

            return patched

    operations = {"write_bytes": len(FILES) + 1, "rename": 3}[failing]
    for last in range(operations):
        with LabelFolder(root) as folder:
            with monkeypatch.context() as patch:
                patch.setattr(Path, failing, Full(last).patch())
                with pytest.raises(OSError, match="No space"):
                    folder.write("room", b"jpeg", FILES)
            assert folder.finished() == set()
        assert not list(root.glob(".*"))
    with LabelFolder(root) as folder:
        assert folder.write("room", b"jpeg", FILES)
    assert len(tree(root)) == 1 + 1 + len(FILES)


HOLD = """
import sys, time
from pathlib import Path
from mtpano_zoo.labeling.storage import LabelFolder
folder = LabelFolder(Path(sys.argv[1]))
folder.open()
(folder._work / "half").write_bytes(b"x")
print("open", flush=True)
time.sleep(60)
"""


def test_temporary_files_of_the_living_stay_and_of_the_dead_go(root):
    with subprocess.Popen([sys.executable, "-c", HOLD, root], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            (theirs,) = root.glob(".labelling-*")
            with LabelFolder(root):
                assert theirs.exists()
            assert (theirs / "half").exists()
        finally:
            process.send_signal(signal.SIGKILL)
    assert theirs.exists()
    with LabelFolder(root):
        assert not theirs.exists()
    assert not list(root.glob(".*"))


def test_a_forked_reader_does_not_keep_its_dead_parent_alive(root):
    """Workers of a loader outlive a killed process by seconds; the next one must not take them for it."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        folder = LabelFolder(root)
        folder.open()
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
        os.write(writing, str(worker).encode())
        os._exit(0)
    worker = int(os.read(reading, 20))
    try:
        os.waitpid(parent, 0)
        with LabelFolder(root):
            pass
        assert not list(root.glob(".*"))
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def _write_many(root, seed):
    names = [f"room-{(i * (2 * seed + 1)) % 8}" for i in range(40)]
    with LabelFolder(root) as folder:
        for name in names:
            folder.write(name, name.encode() * 100, {path: data + name.encode() * 100 for path, data in FILES.items()})
        folder.add_to_list("train", {f"room-{2 * seed}", f"room-{2 * seed + 1}"})


def test_processes_that_write_the_same_panoramas(root):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_many, args=(root, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    names = [f"room-{i}" for i in range(8)]
    expected = {f"img/{name}.jpg": name.encode() * 100 for name in names}
    for path, data in FILES.items():
        task, file = path.split("/")
        expected |= {f"{task}/{name}/{file}": data + name.encode() * 100 for name in names}
    found = tree(root)
    assert json.loads(found.pop("db_info/panomtdu_train.json")) == names
    assert found == expected | {"manifest.json": b"{}"}


def test_lists_grow_and_forget_what_is_gone(root):
    with LabelFolder(root) as folder:
        for name in ("c", "a", "b"):
            folder.write(name, b"jpeg", FILES)
        assert folder.add_to_list("val", ["c", "unfinished"]) == 1
        assert folder.add_to_list("val", ["a"]) == 2
        assert folder.add_to_list("train", ["b"]) == 1
        (root / "img" / "c.jpg").unlink()
        assert folder.add_to_list("val", []) == 1
        assert json.loads((root / "db_info" / "panomtdu_val.json").read_text()) == ["a"]
        (root / "db_info" / "panomtdu_val.json").write_text("[" * 100_000)
        with pytest.raises(ValueError, match="not a list of ids"):
            folder.add_to_list("val", ["a"])


def test_it_is_opened_first(root):
    with pytest.raises(ValueError, match="opened"):
        LabelFolder(root).write("room", b"jpeg", FILES)
