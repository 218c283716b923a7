"""The account of one process."""

import pytest

from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.origin import Origin
from mtpano_zoo.labeling.storage import LabelFolder

FILES = {"depth/merged.png": b"metres"}
OLD, NEW = Origin("old", "1:1:1"), Origin("new", "2:2:2")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with LabelFolder(tmp_path) as folder:
        folder.write("room", b"jpeg", FILES, OLD)
        folder.write("legacy", b"jpeg", FILES)
        yield folder


def item(name, origin):
    return {"name": name, "jpeg": b"jpeg", "origin": origin}


@pytest.mark.parametrize(
    ("name", "stamp", "digest", "settled", "skipped"),
    [
        ("other", "", "new", False, []),  # not finished
        ("room", "1:1:1", "never asked for", True, ["room"]),
        ("room", "3:3:3", "old", True, ["room"]),
        ("room", "", "old", True, ["room"]),
        ("room", "3:3:3", "", False, []),  # has to be read to know
        ("room", "3:3:3", "new", True, []),  # failed
        ("legacy", "3:3:3", "new", True, ["legacy"]),
    ],
)
def test_what_is_settled(name, stamp, digest, settled, skipped, folder):
    ledger = Ledger(folder)
    assert ledger.settle(name, stamp, lambda: digest) is settled
    assert ledger.report.skipped == skipped
    assert bool(ledger.report.failed) is (settled and not skipped)


def test_what_cannot_be_read_any_more_is_kept(folder):
    def missing():
        raise FileNotFoundError("room.jpg")

    ledger = Ledger(folder, overwrite=True)
    assert ledger.settle("room", "", missing)
    assert ledger.report.skipped == ["room"]


def test_an_unchanged_image_with_a_new_stamp_is_read_once(folder):
    folder.close()  # a selection does not open it
    read = []
    for _ in range(2):
        assert Ledger(folder).settle("room", "3:3:3", lambda: read.append(1) or "old")
    assert len(read) == 1


def test_what_cannot_be_read_keeps_its_stamp(folder):
    def forbidden():
        raise PermissionError("room.jpg")

    assert Ledger(folder).settle("room", "3:3:3", forbidden)
    assert folder.origin("room") == OLD


def test_another_image_replaces_only_what_it_is_told_to(folder):
    ledger = Ledger(folder)
    assert not ledger.wants(item("room", NEW))
    assert ledger.report.failed.keys() == {"room"}
    assert not ledger.write(item("room", NEW), FILES)
    assert folder.origin("room") == OLD
    ledger = Ledger(folder, overwrite=True)
    assert ledger.wants(item("room", NEW))
    assert ledger.write(item("room", NEW), FILES)
    assert folder.origin("room") == NEW
    assert ledger.report.done == ledger.report.replaced == ["room"]
    assert not Ledger(folder, overwrite=True).wants(item("room", NEW))


def test_of_two_panoramas_of_one_name_the_second_fails(folder):
    ledger = Ledger(folder)
    assert ledger.wants(item("other", NEW))
    assert not ledger.wants(item("other", OLD))
    assert "two panoramas have this name" in ledger.report.failed["other"]


def test_nothing_is_done_after_the_stop_whose_first_reason_counts(folder):
    ledger = Ledger(folder)
    assert not ledger.stopped
    ledger.stop("the disk is full")
    ledger.stop("the process was asked to end")
    assert ledger.stopped and ledger.report.stopped == "the disk is full"
    assert not ledger.wants(item("other", NEW)) and not ledger.write(item("other", NEW), FILES)
    assert not folder.has("other")
