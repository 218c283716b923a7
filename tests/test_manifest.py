import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtpano_zoo import manifest as module
from mtpano_zoo.errors import InputError
from mtpano_zoo.manifest import (
    MANIFEST,
    check_settings,
    describe_model,
    differences,
    read_manifest,
    write_manifest,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
TREES = st.recursive(
    LEAVES, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=2), parts, max_size=3)
)


def plain(tree):
    """Without keys that have no value, which say the same as absent ones."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items() if value is not None}
    return [plain(part) for part in tree] if isinstance(tree, list) else tree


@given(TREES, TREES)
def test_there_are_differences_where_json_differs(one, other):
    assert not list(differences(one, one))
    assert bool(list(differences(one, other))) == bool(list(differences(other, one))) == (plain(one) != plain(other))


def test_differences_have_the_path_to_them():
    before = {"a": {"b": [1, {"c": 2}]}, "d": [1], "e": 5}
    now = {"a": {"b": [1, {"c": 3}]}, "d": [1, 2], "f": 5}
    assert list(differences(before, now)) == [
        ("a.b[1].c", 2, 3), ("d", [1], [1, 2]), ("e", 5, None), ("f", None, 5),
    ]  # fmt: skip


def test_the_hash_is_of_names_shapes_types_and_values():
    def network(change=lambda layer: layer):
        torch.manual_seed(0)
        return change(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))

    def turned(layer):
        layer[0].weight = nn.Parameter(layer[0].weight.detach().reshape(3, 2))
        return layer

    def nudged(layer):
        layer[1].running_mean[1] = 1e-30
        return layer

    kinds = [
        network(),
        network(turned),
        network(nudged),
        network().half(),
        network(lambda layer: nn.Sequential(*layer, nn.Linear(1, 1))),
    ]
    hashes = [describe_model(kind)["weights"] for kind in kinds]
    assert len(set(hashes)) == len(kinds)
    assert describe_model(network())["weights"] == hashes[0]
    described = describe_model(network().to(memory_format=torch.channels_last), "a name")
    assert described["weights"] == hashes[0] and described["name"] == "a name" and described["tasks"] is None


@pytest.mark.parametrize("links", [True, False])
def test_a_manifest_is_written_once(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(module.os, "link", refuse)
    first, second = {"format": "f", "x": 1}, {"format": "f", "x": 2}
    assert read_manifest(tmp_path, "f") is None
    assert write_manifest(tmp_path, first)
    assert not write_manifest(tmp_path, second) and read_manifest(tmp_path, "f") == first
    assert write_manifest(tmp_path, second, replace=True) and read_manifest(tmp_path, "f") == second
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"format": "other"}'])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(
        InputError, match=r"manifest\.json (is not a manifest|has the format 'other', not 'f').*folder\.$"
    ):
        read_manifest(tmp_path, "f")


def test_other_names_are_no_other_settings(tmp_path):
    known = {"model": {"name": "a", "weights": "0" * 64}, "options": {"x": 1}}
    check_settings(tmp_path, known, known | {"model": {"name": "b", "weights": "0" * 64}}, "do this")
    wanted = json.loads(json.dumps(known)) | {"model": {"name": "b", "weights": "1" * 64}}
    with pytest.raises(InputError) as caught:
        check_settings(tmp_path, known, wanted, "do this")
    before, after = (f"'{digit * 39}..." for digit in "01")
    assert str(caught.value).removeprefix(str(tmp_path)) == (
        f" holds results of other settings (model.weights was {before}, is {after}): keep the settings, do this."
    )
