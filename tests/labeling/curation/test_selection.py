"""Selection keeps the best labels of every domain without bad, empty and duplicate ones, and writes a folder."""

import json
import os
from pathlib import Path

import pytest

from mtpano_zoo.data import PseudoLabelDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation import selection
from mtpano_zoo.labeling.curation.scoring import digest_of_label, stamp_of_label
from mtpano_zoo.labeling.curation.selection import Rules, ScoredLabel, choose, select
from mtpano_zoo.labeling.origin import Origin

LABELS = [
    ScoredLabel("a", 0.9, 1.0, "indoor", 0b0),
    ScoredLabel("b", 0.8, 1.0, "indoor", 0b1),  # looks like a
    ScoredLabel("c", 0.7, 0.1, "indoor", 0xFF00),  # hardly labelled
    ScoredLabel("d", 0.6, 1.0, "indoor", 0xFF0000),
    ScoredLabel("e", 0.5, 1.0, "indoor", 0xFF000000),
    ScoredLabel("f", 0.4, 1.0, "outdoor", 0xFF00000000),
    ScoredLabel("g", 0.95, 1.0, "underwater", 0xFF0000000000),
]


def names(selection):
    return [label.name for label in selection.chosen]


def test_every_rule_drops_what_it_is_for():
    chosen = choose(LABELS, Rules({"indoor": 2, "outdoor": 5}))
    assert names(chosen) == ["a", "d", "f"]
    assert chosen.dropped == {
        "b": "it looks like one with a better score",
        "c": "less than 20% of the sphere has a label",
        "e": "enough of its domain are better",
        "g": "of the domain underwater, which --count does not name",
    }
    assert "3 selected: 2 indoor, 1 outdoor" in chosen.summary()
    assert names(choose(LABELS, Rules({"indoor": 9}, hash_distance=None, min_valid=0))) == ["a", "b", "c", "d", "e"]
    assert names(choose(LABELS, Rules({"indoor": 9}, min_score=0.55))) == ["a", "d"]


def test_the_order_of_the_labels_does_not_matter():
    ties = [ScoredLabel(name, 0.5, 1.0, "indoor", 0xFF << 8 * i) for i, name in enumerate("wxyz")]
    assert names(choose(ties, Rules({"indoor": 2}))) == names(choose(ties[::-1], Rules({"indoor": 2}))) == ["w", "x"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules({"indoor": 1, "space": 1}), "no label has the domain space; there are 5 indoor, 1 outdoor, 1 underw"),
        (Rules({"outdoor": 1}, min_score=0.5), "nothing of the domain outdoor is left: lower min_score"),
        (Rules({"indoor": 0}), "count must be at least 1 per domain"),
        (Rules({}), "count must be at least 1 per domain"),
        (Rules({"indoor": 1}, hash_distance=17), "hash_distance 0 to 16"),
    ],
)
def test_what_cannot_be_selected(rules, message):
    with pytest.raises(InputError, match=message):
        choose(LABELS, rules)


SETTINGS = {"labeler": {"weights": "1"}, "height": 16, "width": 32}


@pytest.fixture
def folders(tmp_path):
    """A folder of labels and one of scores, with only the files that a selection reads."""
    labels, scores = tmp_path / "labels", tmp_path / "scores"
    for folder in (labels / "img", labels / "far", scores / "scores"):
        folder.mkdir(parents=True)
    for label in LABELS:
        (labels / "img" / f"{label.name}.jpg").write_text(label.name)
        for path, content in ((labels / "depth", "metres"), (scores / "score_map", "weights")):
            (path / label.name).mkdir(parents=True)
            (path / label.name / "merged.png").write_text(content)
        values = {"score": label.score, "valid": label.valid, "domain": label.domain, "hash": f"{label.hash:016x}"}
        (scores / "scores" / f"{label.name}.json").write_text(json.dumps(values))
    write_manifest(labels, "mtpano pseudo-labels, 1", SETTINGS)
    write_manifest(scores, "mtpano label scores, 2", {"labels": SETTINGS, "discriminator": "2"})
    return labels, scores, tmp_path / "selected"


def write_manifest(root: Path, form: str, settings: dict) -> None:
    (root / "manifest.json").write_text(json.dumps({"format": form, "classes": [], "settings": settings}))


def files(root):
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_folder_holds_links_a_list_and_weights(folders):
    labels, scores, out = folders
    selection = select(labels, scores, out, Rules({"indoor": 2, "outdoor": 1}, weights=True))
    assert names(selection) == ["a", "d", "f"]
    assert json.loads((out / "db_info" / "panomtdu_train.json").read_text()) == ["a", "d", "f"]
    assert (out / "img" / "a.jpg").samefile(labels / "img" / "a.jpg")
    found = files(out)
    assert found["depth/d/merged.png"] == "metres" and found["depth/d/merged_confidence.png"] == "weights"
    assert not any("/b" in path for path in found)
    assert found["selected.csv"].splitlines()[1] == "a,0.9,1.0,indoor,0000000000000000"
    assert json.loads(found["dropped.json"])["e"] == "enough of its domain are better"


def test_a_name_that_is_not_utf8_is_kept(folders):
    labels, scores, out = folders
    name = os.fsdecode(b"room \xff")
    for path, new in (
        (labels / "img" / "a.jpg", f"{name}.jpg"),
        (labels / "depth" / "a", name),
        (scores / "scores" / "a.json", f"{name}.json"),
    ):
        path.rename(path.with_name(new))
    assert names(select(*folders, Rules({"indoor": 2}))) == [name, "d"]
    assert (out / "selected.csv").read_bytes().splitlines()[1].startswith(b"room \xff,0.9,")
    assert json.loads((out / "db_info" / "panomtdu_train.json").read_text()) == ["d", name]
    assert select(*folders, Rules({"indoor": 2})) is None


def test_a_hard_link_does_not_make_later_selections_read_the_labels_again(folders, monkeypatch):
    labels, scores, _ = folders
    (scores / "origins").mkdir()
    for label in LABELS:
        origin = Origin(digest_of_label(labels, label.name), stamp_of_label(labels, label.name))
        (scores / "origins" / f"{label.name}.txt").write_bytes(origin.to_bytes())
    read = []
    monkeypatch.setattr(
        selection, "digest_of_label", lambda root, name: read.append(name) or digest_of_label(root, name)
    )
    assert names(select(*folders, Rules({"indoor": 2}))) == ["a", "d"] and not read
    assert select(*folders, Rules({"indoor": 2})) is None and read == ["a", "d"]  # the links are new
    assert select(*folders, Rules({"indoor": 2})) is None and read == ["a", "d"]


def test_the_reader_finds_in_it_what_it_finds_in_the_labels(folders):
    labels, scores, out = folders
    read = [path.format(id="a") for paths in PseudoLabelDataModule.files.values() for path in paths]
    for path in read:
        (labels / path).parent.mkdir(parents=True, exist_ok=True)
        (labels / path).write_text(path)
    select(labels, scores, out, Rules({"indoor": 1}))
    found = files(out)
    assert {path: found.get(path) for path in read} == {path: path for path in read}


def test_it_is_made_once_and_not_mixed_with_another(folders):
    rules = Rules({"indoor": 2})
    assert select(*folders, rules) is not None
    before = files(folders[2])
    assert select(*folders, rules) is None and files(folders[2]) == before
    with pytest.raises(
        InputError, match=r"was selected with other settings \(settings.selection.count.indoor was 2, is 1"
    ):
        select(*folders, Rules({"indoor": 1}))
    assert files(folders[2]) == before
    assert names(select(*folders, Rules({"indoor": 1}), overwrite=True)) == ["a"]
    assert [path.name for path in folders[2].parent.iterdir() if path.name.startswith(".")] == []


def test_a_selection_from_scores_that_have_changed_is_not_kept(folders):
    scores, out = folders[1], folders[2]
    best = scores / "scores" / "a.json"
    content = best.read_bytes()
    best.unlink()  # scoring was stopped before it
    assert names(select(*folders, Rules({"indoor": 2}))) == ["b", "d"]
    best.write_bytes(content)
    before = files(out)
    with pytest.raises(InputError, match=r"does not hold the best labels of .*scores as it is now: .*--overwrite"):
        select(*folders, Rules({"indoor": 2}))
    assert files(out) == before
    assert names(select(*folders, Rules({"indoor": 2}), overwrite=True)) == ["a", "d"]
    assert "c" in json.loads((out / "dropped.json").read_text())
    (scores / "scores" / "c.json").unlink()  # it was not selected
    assert select(*folders, Rules({"indoor": 2})) is None
    assert "c" not in json.loads((out / "dropped.json").read_text())


def test_scores_of_labels_that_are_gone_do_not_count(folders):
    labels, _, out = folders
    assert names(select(*folders, Rules({"indoor": 2}))) == ["a", "d"]
    (labels / "img" / "d.jpg").unlink()
    assert names(select(*folders, Rules({"indoor": 2}), overwrite=True)) == ["a", "e"]
    assert json.loads((out / "dropped.json").read_text())["d"] == "it is gone"
    (labels / "depth" / "f" / "merged.png").unlink()
    with pytest.raises(InputError, match=r"nothing of the domain outdoor is left: .*, score again what has changed"):
        select(*folders, Rules({"outdoor": 2}), overwrite=True)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_manifest_without_settings_is_named(folders, which):
    manifest = json.loads((folders[which % 2] / "manifest.json").read_text())
    del manifest["settings"]
    folders[which].mkdir(exist_ok=True)
    (folders[which] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest.json is damaged: it has no settings"):
        select(*folders, Rules({"indoor": 2}))


def test_scores_that_name_no_labels(folders):
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    del manifest["settings"]["labels"]
    (folders[1] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"holds the scores of other labels than .* \(.+ was None, is "):
        select(*folders, Rules({"indoor": 2}))


def test_what_a_killed_selection_left_goes(folders):
    _, scores, out = folders
    left = out.parent / f".selecting-selected-{'0' * 32}"
    left.mkdir()
    running = out.parent / f".selecting-selected-2-{'0' * 32}"  # of another selection
    running.mkdir()
    (scores / "score_map" / "d" / "merged.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"d.merged.png is gone: .* remove the score of this label"):
        select(*folders, Rules({"indoor": 2}, weights=True))
    assert not out.exists() and list(out.parent.glob(".selecting*")) == [running]


def test_a_folder_of_something_else_is_left_alone(folders):
    folders[2].mkdir()
    (folders[2] / "diary.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is not a selection of labels"):
        select(*folders, Rules({"indoor": 2}), overwrite=True)
    assert files(folders[2]) == {"diary.txt": "dear"}


def test_scores_of_other_labels_are_refused(folders):
    labels, scores, out = folders
    write_manifest(labels, "mtpano pseudo-labels, 1", SETTINGS | {"labeler": {"weights": "3"}})
    with pytest.raises(InputError, match=r"scores of other labels than .* \(labeler.weights was 1, is 3\)"):
        select(labels, scores, out, Rules({"indoor": 2}))
    with pytest.raises(InputError, match="has the format 'mtpano pseudo-labels, 1'"):
        select(labels, labels, out, Rules({"indoor": 2}))
    with pytest.raises(FileNotFoundError, match="write it with `mtpano curate score`"):
        select(labels, scores / "not", out, Rules({"indoor": 2}))


@pytest.mark.parametrize("content", ['{"score": 1', '{"score": NaN, "valid": 1.0, "domain": "indoor", "hash": "0"}'])
def test_a_damaged_score_is_named(folders, content):
    (folders[1] / "scores" / "b.json").write_text(content)
    with pytest.raises(InputError, match=r"b.json is not a score: remove it, and score again"):
        select(*folders, Rules({"indoor": 2}))
