"""How `run` and `predict` use it is tested with them; here is what several processes do to one folder."""

import multiprocessing

import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.manifest import MANIFEST
from mtpano_zoo.prediction.folder import RECORDS, PredictionFolder, manifest_of

SETTINGS = manifest_of("test", {"name": None, "weights": "1"}, {"x": 1})


def opened(root, settings=SETTINGS, **options):
    folder = PredictionFolder(root, settings, **options)
    folder.claim()
    return folder


def write_many(root, process):
    folder = opened(root)
    for i in range(100):
        name = f"{process}/{'long name ' * 20}{i}"
        folder.begin(name)
        folder.complete(name, "0" * 64)


def test_processes_that_write_at_once_lose_no_line(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(tmp_path / "out", number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    records = opened(tmp_path / "out").records
    assert len(records) == 400 and set(records.values()) == {"0" * 64}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MANIFEST, RECORDS}


def test_a_name_that_is_no_text_comes_back(tmp_path):
    names = ["caf\udce9", "日本\u2028", 'quote"\n', "a/b"]
    folder = opened(tmp_path)
    for name in names:
        folder.complete(name, "0")
    assert list(opened(tmp_path).records) == names


def test_a_link_to_nothing_is_a_file_of_the_users(tmp_path):
    folder = opened(tmp_path / "out")
    files = {"depth": tmp_path / "out" / "a_depth.png"}
    files["depth"].symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match="already exists"):
        folder.finished("a", files, {"depth"}, lambda: "0")
    with pytest.raises(InputError, match="already exists"):
        PredictionFolder(tmp_path, SETTINGS).claim(files.values())
    assert not (tmp_path / MANIFEST).exists()


def test_without_a_manifest_the_list_of_images_says_nothing(tmp_path):
    folder = opened(tmp_path)
    folder.complete("a", "0")
    (tmp_path / "a_depth.png").write_bytes(b"ours, but of which settings?")
    (tmp_path / MANIFEST).unlink()
    folder = opened(tmp_path)
    files = {"depth": tmp_path / "a_depth.png"}
    assert folder.records == {"a": None}
    assert not folder.finished("a", files, {"depth"}, lambda: "0")  # to be made again
