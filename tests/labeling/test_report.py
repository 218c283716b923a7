import errno

import pytest
import torch

from mtpano_zoo.labeling.report import SHOWN, LabelReport, one_sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("room.jpg is damaged"), "room.jpg is damaged"),
        (TypeError("no len()\nTraceback ..."), "TypeError: no len()"),
        (KeyError("depth"), "KeyError: 'depth'"),
        (RuntimeError(), "RuntimeError: no reason given"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "a.jpg"), "[Errno 13] Permission denied: 'a.jpg'"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore"),
            "it needs more memory than there is: choose fewer writers, smaller panoramas, or a smaller batch_size",
        ),
    ],
)
def test_one_sentence(error, sentence):
    assert one_sentence(error) == sentence


def test_summary_and_exit_code():
    report = LabelReport(done=["a", "b"], seconds=4)
    assert report.summary() == "2 labelled (0.50 per second)"
    assert report.exit_code == 0
    report = LabelReport(["a"], ["b", "c"], {"d": "is damaged"}, ["a"], {"a": 7}, {"a": 2}, seconds=0.5)
    assert report.summary().splitlines() == [
        "1 labelled (2.00 per second), 2 skipped because they were labelled already, 1 failed",
        "7 pixels of 1 panoramas are beyond 65.535 m: no depth label",
        "2 views of 1 panoramas were left out: a teacher returned NaN or infinite values for them",
        "1 were labelled again, because their image has changed",
        "  d: is damaged",
    ]
    assert report.exit_code == 1
    assert LabelReport(stopped="no space").exit_code == 1
    assert LabelReport(stopped="no space").summary() == "0 labelled\nno space"
    many = LabelReport(failed={str(i): "is damaged" for i in range(SHOWN + 5)})
    assert many.summary().splitlines()[-1] == "  and 5 more, see the record in runs/"


def test_names_that_no_terminal_can_print():
    report = LabelReport(failed={"a\nb": "is damaged", "\udcff": "is damaged", "Käse": "is damaged"})
    assert report.summary().encode().decode().splitlines()[1:] == [
        "  'a\\nb': is damaged",
        "  '\\udcff': is damaged",
        "  Käse: is damaged",
    ]


def test_the_report_of_all_processes():
    parts = [
        LabelReport(["a"], ["x"], {"f": "bad"}, ["a"], {"a": 1}, {"a": 3}, "", 3.0),
        LabelReport(["b", "c"], [], {}, [], {"c": 2}, {"b": 1}, "disk full", 5.0, {"d": "masked"}),
        LabelReport(),
    ]
    whole = LabelReport.of_all(parts)
    assert whole == LabelReport(
        ["a", "b", "c"],
        ["x"],
        {"f": "bad"},
        ["a"],
        {"a": 1, "c": 2},
        {"a": 3, "b": 1},
        "disk full",
        5.0,
        {"d": "masked"},
    )
    assert whole.as_record() == {
        "counts": {"labelled": 3, "skipped": 1, "failed": 1},
        "failed": {"f": "bad"},
        "replaced": ["a"],
        "too_far": {"a": 1, "c": 2},
        "broken_views": {"a": 3, "b": 1},
        "stopped": "disk full",
        "seconds": 5.0,
        "left_out": {"d": "masked"},
    }
