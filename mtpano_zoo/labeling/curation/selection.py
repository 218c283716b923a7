"""Third stage: the best labels of every domain, without near-duplicates, as a folder to train on.

The folder has the layout that `PseudoLabelDataModule` reads. Its files are hard links to those of the labels, so it
takes no space and survives their removal; on a file system without links they are copied. It is written beside its
final place and renamed when it is complete.
"""

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.labeling.curation.perceptual_hash import different
from mtpano_zoo.labeling.curation.scoring import FORMAT as SCORES_FORMAT
from mtpano_zoo.labeling.curation.scoring import LABELS_FORMAT, Scorer, digest_of_label, stamp_of_label
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.storage import SCORES, LabelFolder
from mtpano_zoo.manifest import MANIFEST, differences, read_manifest
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.text_files import read_json

__all__ = ("Rules", "ScoredLabel", "Selection", "choose", "read_scores", "select")

TEMPORARY = ".selecting-"
TABLE = "selected.csv"
DROPPED = "dropped.json"
CHANGED = "it has changed since it was scored: add --overwrite to `mtpano curate score`"
GONE = "it is gone"
LINKED = ("semseg", "depth", "normals", "far", "masks")


@dataclass(frozen=True)
class ScoredLabel:
    """An entry of the folder of scores."""

    name: str
    score: float
    valid: float
    domain: str
    hash: int


@dataclass(frozen=True)
class Rules:
    """Rules of the selection.

    Args:
        count: Maximum number of labels by domain.
        min_score: Minimum score.
        min_valid: Minimum share of the sphere that has a label.
        hash_distance: Panoramas whose hashes differ in at most this many bits are duplicates; None keeps them all.
        weights: Write the score maps as confidences of depth, with which losses weight the pixels.
    """

    count: Mapping[str, int]
    min_score: float = 0.0
    min_valid: float = 0.2
    hash_distance: int | None = 4
    weights: bool = False


@dataclass(frozen=True)
class Selection:
    """Result of a selection.

    Args:
        chosen: Selected labels, the best first.
        dropped: Reasons why labels are not selected, by name.
    """

    chosen: Sequence[ScoredLabel]
    dropped: Mapping[str, str]

    def summary(self) -> str:
        """Return a few lines for the terminal."""
        kept = Counter(label.domain for label in self.chosen)
        reasons = Counter(self.dropped.values())
        lines = [f"{len(self.chosen)} selected: " + ", ".join(f"{number} {name}" for name, number in kept.items())]
        return "\n".join([*lines, *(f"  {number} dropped: {reason}" for reason, number in reasons.items())])


def choose(labels: Sequence[ScoredLabel], rules: Rules, outdated: Mapping[str, str] | None = None) -> Selection:
    """Choose among labels; if scores are equal, the first name wins.

    Args:
        labels: All labels.
        rules: The rules.
        outdated: Reasons why scores do not count, by name.

    Raises:
        InputError: If a number is out of range, no label has a requested domain, or nothing is left.
    """
    bits = rules.hash_distance
    if min(rules.count.values(), default=0) < 1 or (bits is not None and not 0 <= bits <= 16):
        raise InputError(
            f"count must be at least 1 per domain and hash_distance 0 to 16, got {dict(rules.count)} and {bits}"
        )
    there = Counter(label.domain for label in labels)
    for domain in rules.count:
        if not there[domain]:
            others = ", ".join(f"{number} {name}" for name, number in sorted(there.items())) or "none at all"
            raise InputError(
                f"no label has the domain {domain}; there are {others}: leave {domain} out of --count, or score with "
                "a classifier that knows it"
            )
    dropped = dict(outdated or {})
    ordered = sorted(labels, key=lambda label: (-label.score, label.name))
    good = []
    for label in (label for label in ordered if label.name not in dropped):
        if label.domain not in rules.count:
            dropped[label.name] = f"of the domain {label.domain}, which --count does not name"
        elif label.valid < rules.min_valid:
            dropped[label.name] = f"less than {rules.min_valid:.0%} of the sphere has a label"
        elif label.score < rules.min_score:
            dropped[label.name] = f"its score is below {rules.min_score:g}"
        else:
            good.append(label)
    kept = good if bits is None else [good[i] for i in different([label.hash for label in good], bits)]
    names = {label.name for label in kept}
    dropped |= {label.name: "it looks like one with a better score" for label in good if label.name not in names}
    chosen, counts = [], Counter[str]()
    for label in kept:
        if counts[label.domain] < rules.count[label.domain]:
            counts[label.domain] += 1
            chosen.append(label)
        else:
            dropped[label.name] = "enough of its domain are better"
    if lacking := [domain for domain in rules.count if not counts[domain]]:
        raise InputError(
            f"nothing of the domain {lacking[0]} is left: lower min_score or min_valid, score again what has changed "
            "with `mtpano curate score --overwrite`, or leave it out of --count"
        )
    return Selection(chosen, dropped)


def read_scores(root: Path) -> list[ScoredLabel]:
    """Read the scores of a folder, by name.

    Raises:
        InputError: If a file is damaged, or a score is not finite.
    """
    labels = []
    for path in sorted((root / SCORES).glob("*.json")):
        try:
            values = read_json(path)
            number = int(values["hash"], 16)
            name, domain = path.name.removesuffix(".json"), str(values["domain"])
            label = ScoredLabel(name, float(values["score"]), float(values["valid"]), domain, number)
            if not math.isfinite(label.score) or not math.isfinite(label.valid):
                raise ValueError("not finite")
            labels.append(label)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is not a score: remove it, and score again") from error
    return labels


def select(labels: Path, scores: Path, out: Path, rules: Rules, overwrite: bool = False) -> Selection | None:
    """Select labels and write the folder; return None if it already holds the selection.

    Args:
        labels: Folder of labels.
        scores: Folder of their scores.
        out: The new folder.
        rules: Rules of the selection.
        overwrite: Replace a selection that was made with other settings, or before the labels or scores changed.

    Raises:
        FileNotFoundError: If there is no folder of labels or scores, or a file is gone.
        InputError: If the scores are of other labels, nothing is left, or the folder holds something else, such as a
            selection from scores that have changed since.
    """
    manifest = _manifest(labels, scores, rules)
    finished = _finished(out, manifest, overwrite)
    scored = read_scores(scores)
    if not scored:
        raise InputError(f"{scores} holds no scores: run `mtpano curate score` first")
    selection = choose(scored, rules, _outdated(labels, scores, scored))
    if finished and _holds(out / TABLE, _table(selection)):
        if not _holds(out / DROPPED, _dropped(selection)):  # the scores of others have changed
            write_bytes(out / DROPPED, _dropped(selection))
        return None
    if finished and not overwrite:
        raise InputError(
            f"{out} does not hold the best labels of {scores} as it is now: choose another folder, or pass --overwrite "
            "to replace it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.iterdir():  # left by a killed process; not `best-2`, which another one may select now
        if re.fullmatch(rf"{re.escape(TEMPORARY + out.name)}-[0-9a-f]{{32}}(-old)?", left.name):
            shutil.rmtree(left, ignore_errors=True)
    work = out.parent / f"{TEMPORARY}{out.name}-{uuid.uuid4().hex}"
    try:
        _write(work, labels, scores, selection, rules)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if out.exists():
            out.rename(work.with_name(f"{work.name}-old"))
        work.rename(out)
    finally:
        for path in (work, work.with_name(f"{work.name}-old")):
            shutil.rmtree(path, ignore_errors=True)
    return selection


def _outdated(labels: Path, scores: Path, scored: Sequence[ScoredLabel]) -> dict[str, str]:
    """Return why scores do not count, by name: the label is gone, or not the one that was scored."""
    ledger = Ledger(LabelFolder(scores, Scorer.marker), made_otherwise=CHANGED)
    for label in scored:
        try:
            stamp = stamp_of_label(labels, label.name)
        except OSError:
            ledger.fail(label.name, GONE)
        else:
            ledger.settle(label.name, stamp, partial(digest_of_label, labels, label.name))
    return ledger.report.failed


def _manifest(labels: Path, scores: Path, rules: Rules) -> dict[str, Any]:
    """Return the manifest of the selection: that of the labels, and how they were selected."""
    known = {}
    for root, form, verb in ((labels, LABELS_FORMAT, "label"), (scores, SCORES_FORMAT, "score")):
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}: write it with `mtpano curate {verb}`")
        manifest = read_manifest(root, form, "settings")
        if manifest is None:
            raise InputError(f"{root} has no manifest: pass a folder that `mtpano curate {verb}` wrote")
        known[verb] = manifest
    if known["score"]["settings"].get("labels") != known["label"]["settings"]:
        key, before, now = next(differences(known["score"]["settings"].get("labels", {}), known["label"]["settings"]))
        raise InputError(
            f"{scores} holds the scores of other labels than {labels} ({key} was {str(before)[:40]}, is "
            f"{str(now)[:40]}): pass the folder that was scored, or score this one"
        )
    plain = json.loads(json.dumps(asdict(rules)))
    settings = {**known["label"]["settings"], "selection": {**plain, "scores": known["score"]["settings"]}}
    return {**known["label"], "settings": settings}


def _finished(out: Path, manifest: Mapping[str, Any], overwrite: bool) -> bool:
    """Return whether the folder already holds the same selection.

    Raises:
        InputError: If it holds something else.
    """
    if not out.exists():
        return False
    found = read_manifest(out, LABELS_FORMAT, "settings") if out.is_dir() else None
    if found is None or "selection" not in found["settings"]:
        raise InputError(f"{out} exists and is not a selection of labels: choose a new folder")
    if found == manifest:
        return True
    if not overwrite:
        key, before, now = next(differences(found, manifest))
        raise InputError(
            f"{out} was selected with other settings ({key} was {str(before)[:40]}, is {str(now)[:40]}): choose "
            "another folder, or pass --overwrite to replace it"
        )
    return False


def _write(work: Path, labels: Path, scores: Path, selection: Selection, rules: Rules) -> None:
    for folder in ("img", "db_info"):
        (work / folder).mkdir(parents=True)
    for label in selection.chosen:
        _link(path_below(labels / "img", label.name, ".jpg"), work / "img")
        for task in LINKED:
            source = path_below(labels / task, label.name)
            for path in (source / "merged.png", source / "merged_confidence.png"):
                if path.is_file() and not (rules.weights and task == "depth" and "confidence" in path.name):
                    _link(path, work / task / label.name)
        if rules.weights:
            weights = path_below(scores / "score_map", label.name) / "merged.png"
            _link(weights, work / "depth" / label.name, "merged_confidence.png")
    if (labels / "classes.yaml").is_file():
        _link(labels / "classes.yaml", work)
    names = sorted(label.name for label in selection.chosen)
    (work / "db_info" / "panomtdu_train.json").write_text(json.dumps(names, indent=0), encoding="utf-8")
    (work / TABLE).write_bytes(_table(selection))
    (work / DROPPED).write_bytes(_dropped(selection))


def _table(selection: Selection) -> bytes:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("id", "score", "valid", "domain", "hash"))
    for label in selection.chosen:
        writer.writerow((label.name, label.score, label.valid, label.domain, f"{label.hash:016x}"))
    return table.getvalue().encode("utf-8", "surrogateescape")  # as file systems do


def _dropped(selection: Selection) -> bytes:
    return json.dumps(dict(sorted(selection.dropped.items())), indent=0).encode()


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _link(source: Path, folder: Path, name: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or source.name)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.ENOENT:
            sentence = f"{source} is gone: select again, or remove the score of this label and score it again"
            raise FileNotFoundError(sentence) from error
        shutil.copyfile(source, target)
