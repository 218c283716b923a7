from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtpano_zoo.files.weights import read_description, read_tensors, write_weights

DESCRIPTION = {"class_path": "Net", "init_args": {"classes": ["Tür", "wall"]}, "card": {}}


def write(folder: Path, value: float = 1.0, count: int = 1000) -> Path:
    write_weights(folder, {"weight": torch.full((count,), value)}, DESCRIPTION)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_what_was_written_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {"a": torch.randn(2, 3).to(dtype), "b": torch.tensor(5)}
    write_weights(tmp_path / "new" / "folder", weights, DESCRIPTION)
    read = read_tensors(tmp_path / "new" / "folder" / "model.safetensors")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in weights.items())
    assert read_description(tmp_path / "new" / "folder") == DESCRIPTION
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    weights = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.T}
    write_weights(tmp_path, weights, {})
    written = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in weights.items())


@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.99])
def test_weights_that_are_damaged(tmp_path: Path, kept: float) -> None:
    weights = write(tmp_path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or not a safetensors file"):
        read_tensors(weights)


@pytest.mark.parametrize(("text", "message"), [
    ("{", r"config\.json is not JSON"),
    ("[]", r"config\.json holds a list, not the description"),
])  # fmt: skip
def test_descriptions_that_are_damaged(tmp_path: Path, text: str, message: str) -> None:
    (write(tmp_path) / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_description(tmp_path)


@pytest.mark.parametrize(("name", "read", "message"), [
    ("model.safetensors", lambda folder: read_tensors(folder / "model.safetensors"), "There is no weight file at"),
    ("config.json", read_description, r"no config\.json in .*says which network the weights belong to"),
])  # fmt: skip
def test_files_that_are_missing(tmp_path: Path, name: str, read: Any, message: str) -> None:
    (write(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        read(tmp_path)


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    folder = write(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # what a write past the end of a disk does
    try:
        with pytest.raises(OSError, match="weights could not be written to"):
            write(tmp_path, 2.0, count=10000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
