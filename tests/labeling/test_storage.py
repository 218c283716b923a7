"""The folder of labels: complete panoramas only, whatever stops a process, and however many write."""

import contextlib
import errno
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.origin import Origin
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
    """The disk is full at every single write and rename in turn."""

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

    operations = {"write_bytes": len(FILES) + 1, "rename": 2}[failing]
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
            assert select.select([process.stdout], [], [], 100)[0], "the process does not begin"
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
    """Loader workers outlive a killed process by seconds; the next process must not mistake them for it."""
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
    assert select.select([reading], [], [], 60)[0], "the process does not begin"
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


@pytest.mark.parametrize("links", [True, False])
def test_only_one_of_two_processes_counts_a_panorama_as_written_by_it(links, tmp_path, monkeypatch):
    """The other one writes it before step `first`, the last of which makes it finished."""

    def unsupported(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", unsupported)
    counted = []
    for first in range(3):
        root = tmp_path / str(first)
        root.mkdir()
        (root / "manifest.json").write_text("{}")
        with LabelFolder(root) as other, LabelFolder(root) as mine:
            write = partial(other.write, "room", b"jpeg", FILES)
            steps = Steps(root, [files_of(b"jpeg", FILES)], -1, first, lambda write=write: counted.append(write()))
            with steps.taken():
                counted.append(mine.write("room", b"jpeg", FILES))
        assert steps.number > first
    assert counted == [True, False] * 3


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


class Killed(BaseException):
    """Simulates the kill of a process, which cleans up nothing."""


def whole_or_unfinished(root, versions):
    """Whether the panorama has no image, or all of one version of its files."""
    found = {path: data for path, data in tree(root).items() if "room" in path and not path.startswith(".")}
    return "img/room.jpg" not in found or found in versions


def files_of(image, files):
    return {"img/room.jpg": image} | {f"{path.split('/')[0]}/room/{path.split('/')[1]}": files[path] for path in files}


class Steps:
    """Checks the folder before every rename and removal of a process, lets another act once, and kills the first."""

    def __init__(self, root, versions, last, first=None, act=None):
        self.root = root
        self.versions = versions
        self.last = last
        self.first = first
        self.act = act
        self.number = 0

    def __call__(self):
        number, self.number = self.number, self.number + 1
        assert whole_or_unfinished(self.root, self.versions)
        if number == self.first:
            with self.patch.context() as plain:
                for name, operation in self.original.items():
                    plain.setattr(Path, name, operation)
                self.act()
            assert whole_or_unfinished(self.root, self.versions)
        if number == self.last:
            raise Killed

    @contextlib.contextmanager
    def taken(self):
        names = ("rename", "replace", "unlink", "hardlink_to")
        self.original = {name: getattr(Path, name) for name in names}
        with pytest.MonkeyPatch.context() as self.patch:
            for name in names:
                self.patch.setattr(Path, name, self._before(self.original[name]))
            with contextlib.suppress(Killed):
                yield
        assert whole_or_unfinished(self.root, self.versions)

    def _before(self, operation):
        def patched(path, *arguments, **options):
            self()
            return operation(path, *arguments, **options)

        return patched


@pytest.mark.parametrize("stale", [False, True])
def test_killed_between_any_two_renames_beside_another(stale, tmp_path):
    """Another process writes the same panorama before step `first`; this one is killed before step `last`."""
    count, finished = 8, 0
    for first in range(count):
        for last in range(first, count):
            root = tmp_path / f"{first}-{last}"
            (root / "depth" / "room").mkdir(parents=True)
            (root / "manifest.json").write_text("{}")
            if stale:
                (root / "depth" / "room" / "label_9.png").write_bytes(b"of a killed process")
            with LabelFolder(root) as other, LabelFolder(root) as mine:
                act = partial(other.write, "room", b"jpeg", FILES)
                steps = Steps(root, [files_of(b"jpeg", FILES)], last, first, act)
                with steps.taken():
                    mine.write("room", b"jpeg", FILES)
                assert mine.has("room")
            finished += steps.number > first
    assert finished > 5


def test_killed_while_labels_are_replaced(tmp_path):
    """There are old labels, new ones or none, never a mixture that counts as finished."""
    new = {"semseg/merged.png": b"other classes", "depth/merged.png": b"other metres"}
    one, another = Origin("one"), Origin("another")
    versions = [
        {"origins/room.txt": one.to_bytes(), **files_of(b"jpeg", FILES)},
        {"origins/room.txt": another.to_bytes(), **files_of(b"new", new)},
    ]
    finished = set()
    for last in range(12):
        root = tmp_path / str(last)
        root.mkdir()
        (root / "manifest.json").write_text("{}")
        with LabelFolder(root) as folder:
            folder.write("room", b"jpeg", FILES, one)
            assert not folder.write("room", b"new", new, another)
            assert not folder.write("room", b"jpeg", FILES, one, replace=True)
            with Steps(root, versions, last).taken():
                folder.write("room", b"new", new, another, replace=True)
            finished.add(folder.has("room"))
            folder.write("room", b"new", new, another, replace=True)
            assert tree(root / "depth" / "room") == {"merged.png": b"other metres"}
            assert folder.origin("room") == another
    assert finished == {True, False}


@pytest.mark.parametrize("name", ["img", "semseg", "depth", "normals", "origins", "db_info", "runs"])
def test_a_link_in_place_of_a_folder_is_refused(name, root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"{name} is a symbolic link"):
        LabelFolder(root).open()
    assert not list(elsewhere.iterdir()) and not list(root.glob(".*"))


def test_a_link_that_appears_later_is_not_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with LabelFolder(root) as folder:
        (root / "depth").symlink_to(elsewhere)
        with pytest.raises(InputError, match="depth is a symbolic link"):
            folder.write("room", b"jpeg", FILES)
        assert not folder.has("room")
    assert not list(elsewhere.iterdir())


def test_a_link_in_place_of_a_panorama_is_replaced(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").write_bytes(b"x")
    for folder in ("depth", "semseg", "img", "origins"):
        (root / folder).mkdir()
    (root / "depth" / "room").symlink_to(elsewhere)
    (root / "semseg" / "room").symlink_to(elsewhere / "precious")
    (root / "img" / "room.jpg").symlink_to(elsewhere / "nothing")
    (root / "origins" / "room.txt").symlink_to(elsewhere / "precious")
    with LabelFolder(root) as folder:
        assert not folder.has("room") and folder.finished() == set()
        assert folder.write("room", b"jpeg", FILES, Origin("one"))
    assert tree(elsewhere) == {"precious": b"x"}
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert (root / "depth" / "room" / "merged.png").read_bytes() == b"metres"


def test_names_that_lead_elsewhere(root):
    before = tree(root)
    with LabelFolder(root) as folder:
        for name in ("..", ".", "../x", "/x", "", "x" * 300):
            with pytest.raises(InputError):
                folder.write(name, b"jpeg", FILES)
            with pytest.raises(InputError):
                folder.has(name)
    assert {path: data for path, data in tree(root).items() if data} == before


def test_a_name_that_the_disk_does_not_take_is_not_finished(root, monkeypatch):
    def too_long(path):
        raise OSError(errno.ENAMETOOLONG, "File name too long", str(path))

    monkeypatch.setattr(Path, "is_file", too_long)
    assert not LabelFolder(root).has("x" * 200)


def test_it_is_opened_first(root):
    with pytest.raises(ValueError, match="opened"):
        LabelFolder(root).write("room", b"jpeg", FILES)
