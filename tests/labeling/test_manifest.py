"""Who labelled a folder, and that nobody else does."""

import json
import multiprocessing
from pathlib import Path

import pytest

from mtpano_zoo.data.folder import read_classes
from mtpano_zoo.data.pseudo_labels import in_metres
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.manifest import check_manifest, claim, describe, software, write_record
from mtpano_zoo.labeling.storage import LabelFolder

SETTINGS = {"views": {"class_path": "RandomViews", "init_args": {"count": 32, "fov": (80.0, 120.0)}}, "height": 512}
MANIFEST = describe(SETTINGS, ("wall", "sofa; green"))


def other(count):
    views = {"class_path": "RandomViews", "init_args": {"count": count, "fov": (80.0, 120.0)}}
    return describe(SETTINGS | {"views": views}, ("wall", "sofa; green"))


def test_a_new_folder_is_described(tmp_path):
    root = tmp_path / "a" / "labels"
    claim(root, MANIFEST)
    assert {path.name for path in root.iterdir()} == {"manifest.json", "classes.yaml"}
    written = json.loads((root / "manifest.json").read_text())
    assert written["settings"]["views"]["init_args"]["fov"] == [80, 120]
    assert written["classes"] == ["wall", "sofa; green"]
    assert "65.535 m" in written["encoding"]["depth"]["range"]
    assert read_classes(root / "classes.yaml")[0] == ("wall", "sofa; green")


def test_the_same_settings_go_on(tmp_path):
    claim(tmp_path, MANIFEST)
    before = (tmp_path / "manifest.json").stat().st_mtime_ns
    claim(tmp_path, MANIFEST)
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before
    (tmp_path / "classes.yaml").unlink()  # as a process leaves it that is killed before it writes them
    claim(tmp_path, MANIFEST)
    assert (tmp_path / "classes.yaml").exists()


def test_without_classes(tmp_path):
    claim(tmp_path, describe({}, ()))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json"}


def test_other_settings_are_refused_and_named(tmp_path):
    claim(tmp_path, MANIFEST)
    with pytest.raises(ValueError, match=r"views\.init_args\.count was 32, is 16\).*--overwrite"):
        claim(tmp_path, other(16))
    with pytest.raises(ValueError, match=r"classes\[0\] was wall, is floor\)"):
        claim(tmp_path, describe(SETTINGS, ("floor", "sofa; green")))
    with pytest.raises(ValueError, match=r"is \[\], and 1 more\)"):
        claim(tmp_path, describe("something else", ()))
    assert json.loads((tmp_path / "manifest.json").read_text()) == MANIFEST


def test_overwriting_throws_away_other_labels_only(tmp_path):
    claim(tmp_path, MANIFEST)
    with LabelFolder(tmp_path) as folder:
        folder.write("room", b"jpeg", {"depth/merged.png": b"metres"})
        folder.add_to_list("train", ["room"])
        write_record(folder, "20260101T000000Z", {"labelled": 1, "metric_depth": False})
    assert not in_metres(tmp_path)
    (tmp_path / "mine.txt").write_text("a note")
    claim(tmp_path, MANIFEST, overwrite=True)
    assert (tmp_path / "img" / "room.jpg").exists() and list((tmp_path / "runs").iterdir())
    claim(tmp_path, other(16), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "classes.yaml", "mine.txt"}
    assert in_metres(tmp_path)  # what is known of the deleted labels does not hold for the next ones
    assert json.loads((tmp_path / "manifest.json").read_text()) == other(16)
    with LabelFolder(tmp_path) as folder:
        assert folder.finished() == set()
    claim(tmp_path, other(16))


def test_labels_that_are_being_written_are_not_thrown_away(tmp_path):
    claim(tmp_path, MANIFEST)
    with LabelFolder(tmp_path) as folder:
        folder.write("room", b"jpeg", {"depth/merged.png": b"metres"})
        with pytest.raises(InputError, match="being written to by another process"):
            claim(tmp_path, other(16), overwrite=True)
        claim(tmp_path, MANIFEST, overwrite=True)
    assert (tmp_path / "img" / "room.jpg").exists()
    claim(tmp_path, other(16), overwrite=True)
    assert not (tmp_path / "img").exists()


def test_a_link_in_the_folder_is_refused_before_anything_is_removed(tmp_path):
    """The link is not followed, and nothing is deleted before the refusal."""
    root, elsewhere = tmp_path / "labels", tmp_path / "elsewhere"
    claim(root, MANIFEST)
    elsewhere.mkdir()
    (elsewhere / "room.jpg").write_bytes(b"precious")
    (root / "img").symlink_to(elsewhere)
    for manifest in (MANIFEST, other(16)):
        with pytest.raises(InputError, match="img is a symbolic link"):
            claim(root, manifest, overwrite=True)
    assert (elsewhere / "room.jpg").read_bytes() == b"precious"
    assert json.loads((root / "manifest.json").read_text()) == MANIFEST


def test_what_is_no_folder_of_labels(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"holds files but no manifest\.json"):
        claim(tmp_path, MANIFEST, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        claim(tmp_path / "holiday.jpg", MANIFEST)
    for content in ("{", "[]", "{}", "[" * 100_000, '{"format": ' * 500 + "1" + "}" * 500):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match="is not a manifest of labels"):
            claim(tmp_path, MANIFEST, overwrite=True)
    (tmp_path / "manifest.json").write_text('{"format": "of tomorrow"}')
    with pytest.raises(ValueError, match="another format or version, 'of tomorrow'"):
        claim(tmp_path, MANIFEST, overwrite=True)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


def test_checking_changes_nothing(tmp_path):
    check_manifest(tmp_path / "new", MANIFEST)
    assert not list(tmp_path.iterdir())


def _claim(root, count, barrier, results):
    barrier.wait()
    try:
        claim(root, other(count))
        results.put(count)
    except ValueError as error:
        results.put(str(error))


def test_of_processes_with_different_settings_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        root = tmp_path / str(attempt)
        results, barrier = context.Queue(), context.Barrier(4)
        processes = [context.Process(target=_claim, args=(root, count, barrier, results)) for count in (1, 1, 2, 3)]
        for process in processes:
            process.start()
        told = [results.get(timeout=20) for _ in processes]
        for process in processes:
            process.join(20)
        winner = json.loads((root / "manifest.json").read_text())["settings"]["views"]["init_args"]["count"]
        assert [answer for answer in told if isinstance(answer, int)] == [winner] * (2 if winner == 1 else 1)
        assert all("with other settings" in answer for answer in told if not isinstance(answer, int))
        assert {path.name for path in root.iterdir()} == {"manifest.json", "classes.yaml"}


def test_a_process_that_begins_while_another_is_asked_for_its_files(tmp_path, monkeypatch):
    iterdir = Path.iterdir

    def begin_first(folder):
        monkeypatch.undo()
        claim(tmp_path, {**MANIFEST, "settings": {"other": 1}})
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", begin_first)
    with pytest.raises(ValueError, match="with other settings"):
        claim(tmp_path, MANIFEST)


def test_records_are_never_overwritten(tmp_path):
    claim(tmp_path, MANIFEST)
    with LabelFolder(tmp_path) as folder:
        for number in range(3):
            write_record(folder, "20260101T000000Z", {"number": number, "software": software()})
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    assert sorted(record["number"] for record in records) == [0, 1, 2]
    assert {"python", "mtpano_zoo", "torch", "numpy", "opencv-python-headless"} <= records[0]["software"].keys()
