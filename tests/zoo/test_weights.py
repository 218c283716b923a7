import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtpano_zoo.models import NETWORKS, PDBridgeNet
from mtpano_zoo.training.checkpoint import describe_network
from mtpano_zoo.zoo.weights import read_network, write_weights


def write(network, folder: Path, **card) -> Path:
    write_weights(folder, network.state_dict(), describe_network(network) | {"card": card})
    return folder


@pytest.mark.parametrize("variant", ["sphere", "paper"])
@pytest.mark.parametrize("encoder", ["vit_small_patch16_dinov3_qkvb", "vit_small_patch16_224", "xcit_nano_12_p8_224"])
def test_a_network_comes_back_bitwise(tmp_path: Path, tiny_network, variant: str, encoder: str) -> None:
    sizes = {} if "xcit" not in encoder else {"encoder_width": None, "encoder_heads": None, "encoder_depth": None}
    network = tiny_network(variant=variant, encoder=encoder, **sizes).eval()
    loaded = read_network(write(network, tmp_path, description="tiny"))

    assert type(loaded) is type(network) and not loaded.training
    assert loaded.card == {"description": "tiny"}
    assert (loaded.config, loaded.classes, loaded.tasks) == (network.config, network.classes, network.tasks)
    pairs = [(dict(n.named_parameters()), dict(n.named_buffers())) for n in (network, loaded)]
    for own, others in zip(*pairs, strict=True):
        assert list(own) == list(others)
        assert all(torch.equal(own[name], others[name]) for name in own)  # buffers that no file holds included
        assert all(own[name].requires_grad == others[name].requires_grad for name in own)
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        ours, theirs = network(image), loaded(image)
    for task in network.tasks:  # not bitwise: sums are taken in another order where memory is aligned otherwise
        torch.testing.assert_close(ours[task], theirs[task], rtol=1e-5, atol=1e-5)


def test_precision_is_kept(tmp_path: Path, tiny_network) -> None:
    network = tiny_network().to(torch.bfloat16)
    loaded = read_network(write(network, tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_reading_neither_draws_random_numbers_nor_leaves_anything_behind(tmp_path: Path, tiny_network) -> None:
    write(tiny_network(), tmp_path)
    before = torch.get_rng_state()
    read_network(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_weights_are_mapped_from_the_file_and_take_no_memory_of_their_own(tmp_path: Path, tiny_network) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    network = read_network(write(tiny_network(), tmp_path))
    lines = [line for line in maps.read_text().splitlines() if line.endswith(str(tmp_path / "model.safetensors"))]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    assert all(any(a <= value.data_ptr() < b for a, b in ranges) for value in network.state_dict().values())


def test_other_threads_build_networks_meanwhile(tmp_path: Path, tiny_network, monkeypatch) -> None:
    """Building without memory is switched on for one thread: here another builds in the middle of it."""
    built: list[torch.nn.Linear] = []

    class Meanwhile(PDBridgeNet):
        def _build_streams(self, *arguments: Any) -> None:
            thread = threading.Thread(target=lambda: built.append(torch.nn.Linear(2, 2)))
            thread.start()
            thread.join()
            super()._build_streams(*arguments)

    write(tiny_network(), tmp_path)
    monkeypatch.setitem(NETWORKS, "PDBridgeNet", Meanwhile)
    network = read_network(tmp_path)
    assert not any(parameter.is_meta for module in (network, *built) for parameter in module.parameters())


def test_training_a_loaded_network_does_not_change_its_file(tmp_path: Path, tiny_network) -> None:
    network = read_network(write(tiny_network(), tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network.train()(torch.rand(2, 3, 32, 64))["depth"].mean().backward()
    optimizer.step()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert any(not torch.equal(p, torch.as_tensor(load_file(tmp_path / "model.safetensors")[k]))
               for k, p in network.named_parameters())  # fmt: skip


def test_a_network_can_be_written_over_the_file_that_it_was_read_from(tmp_path: Path, tiny_network) -> None:
    network = read_network(write(tiny_network(), tmp_path))
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    write(network, tmp_path)
    again = read_network(tmp_path)
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    weights = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.T}
    write_weights(tmp_path, weights, {})
    written = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in weights.items())


def test_missing_and_damaged_files(tmp_path: Path, tiny_network) -> None:
    folder = write(tiny_network(), tmp_path / "tiny")
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, description = weights.read_bytes(), json.loads(config.read_text())

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or no safetensors file"):
        read_network(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        read_network(folder)
    weights.write_bytes(whole)
    for text, message in (
        ("{", r"config\.json is not JSON"),
        ("[" * 100_000, r"config\.json is nested more than 64 levels"),
        ("[]", "holds a list, not the description"),
        ("{}", "needs the keys class and config"),
        (json.dumps(description | {"class": ["PDBridgeNet"]}), "which is none of PDBridgeNet"),
        (json.dumps(description | {"config": [1, 2]}), "must be dictionaries"),
        (json.dumps(description | {"card": "abc"}), "must be dictionaries"),
        (json.dumps(description | {"config": description["config"] | {"patch_size": 0}}), "does not take"),
        (json.dumps(description | {"class": "os.system"}), "class 'os.system', which is none of PDBridgeNet"),
        (json.dumps(description | {"config": {"depht": 3}}), r"arguments that PDBridgeNet does not take: .*depht"),
        (json.dumps(description | {"config": description["config"] | {"bridge_width": 8}}), "of another shape"),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_network(folder)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*says which network"):
        read_network(folder)
    shutil.rmtree(folder)


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, tiny_network) -> None:
    resource = pytest.importorskip("resource")
    folder = write(tiny_network(), tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # what a write past the end of a disk does
    try:
        with pytest.raises(OSError, match="weights could not be written to"):
            write(tiny_network(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
