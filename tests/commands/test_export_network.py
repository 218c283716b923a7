import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import tiny_vit
from torch import nn

from mtpano_zoo.cli import main
from mtpano_zoo.commands import export_network as module
from mtpano_zoo.commands.export_network import export
from mtpano_zoo.layers import CNNEncoder, Encoder
from mtpano_zoo.models import PanoramaNetwork, PDBridgeNet
from mtpano_zoo.sphere import erp_rays

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"
Build = Callable[..., PDBridgeNet]
XCIT = {"name": "xcit_nano_12_p8_224", "width": None, "depth": 4, "heads": None}


class Small(PanoramaNetwork):
    """All tasks from one convolution."""

    def __init__(self, classes: tuple[str, ...] = ("floor", "wall")) -> None:
        tasks = ("semseg", "depth", "normals")
        super().__init__(tasks, (16, 32), classes=classes, image_mean=(0.5,) * 3, image_std=(0.25,) * 3)
        self.convolution = nn.Conv2d(3, len(classes) + 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        semseg, depth, normals = self.convolution(self.normalize(image)).split((len(self.classes), 1, 3), dim=1)
        return {"semseg": semseg, "depth": depth, "normals": normals}


def randomise(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def run_onnx(path: Path, image: torch.Tensor) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": image.numpy()}), strict=True))


@pytest.mark.parametrize(("encoder", "arguments", "size"), [
    (partial(CNNEncoder, "test_resnet", width=16), {"tasks": ("normals",), "bridge": False}, (64, 128)),
    (tiny_vit, {"convention": "paper", "tasks": ("semseg", "depth")}, (40, 80)),
], ids=["sphere", "paper"])  # fmt: skip
@pytest.mark.slow
def test_onnx_of_the_networks(
    encoder: Callable[[], Encoder],
    arguments: dict[str, Any],
    size: tuple[int, int],
    tiny_network: Build,
    tmp_path: Path,
) -> None:
    # The time grows with the number of nodes, so one stream is written at a time: either convention, with and without
    # bridges, on a transformer and on convolutions, and every task once.
    network = randomise(tiny_network(encoder(), **arguments))
    path = tmp_path / "made" / "network.onnx"
    assert export(network, path, "onnx", size) == [path]
    assert [file.name for file in path.parent.iterdir()] == ["network.onnx"]
    image = torch.rand(4, 3, *size)
    found = run_onnx(path, image)
    assert tuple(found) == network.tasks
    with torch.no_grad():
        expected = network(image)
    if "semseg" in network.tasks:
        limit = 1e-4 * float(expected["semseg"].abs().max())
        np.testing.assert_allclose(found["semseg"], expected["semseg"], atol=limit)
    if "depth" in network.tasks:
        np.testing.assert_allclose(found["depth"], expected["depth"].clamp_min(0.001), rtol=1e-3)
    if "normals" in network.tasks:
        normals = nn.functional.normalize(expected["normals"], dim=1)
        np.testing.assert_allclose(found["normals"], normals, atol=1e-4)


class Encoded(PanoramaNetwork):
    """Depth from the taps of an encoder, on its grid."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(("depth",), (64, 128))
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        return {"depth": 5 + torch.cat(self.encoder(self.normalize(image))[0], dim=1).mean(dim=1, keepdim=True)}


@pytest.mark.slow
def test_onnx_of_the_other_transformer(tmp_path: Path) -> None:
    network = randomise(Encoded(tiny_vit(**XCIT)))
    export(network, tmp_path / "network.onnx", "onnx", (32, 64))
    image = torch.rand(3, 3, 32, 64)
    with torch.no_grad():
        expected = network(image)["depth"].clamp_min(0.001)
    np.testing.assert_allclose(run_onnx(tmp_path / "network.onnx", image)["depth"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_torch_export_of_the_network(tmp_path: Path) -> None:
    # Larger networks are recorded in the same way for ONNX, see above.
    network = randomise(Encoded(CNNEncoder("test_resnet", width=8)))
    path = tmp_path / "network.pt2"
    assert export(network, path, "torch-export", (32, 64)) == [path]
    facts = {"height": "", "width": "", "classes": "", "tasks": ""}
    program = torch.export.load(path, extra_files=facts)
    assert {name: json.loads(value) for name, value in facts.items()} == {
        "height": 32, "width": 64, "classes": [], "tasks": ["depth"],
    }  # fmt: skip
    image = torch.rand(5, 3, 32, 64)
    with torch.no_grad():
        expected = network(image)["depth"].clamp_min(0.001)
        torch.testing.assert_close(program.module()(image)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_page_tells_how_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomise(Small())
    export(network, tmp_path / "rooms.onnx", "onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=100)
    monkeypatch.chdir(tmp_path)
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S) if "onnx" in code)
    names: dict[str, Any] = {}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    expected = network.predict("photo.jpg")
    assert names["facts"]["classes"] == ["floor", "wall"]
    assert (names["classes"] == expected.semseg).mean() > 0.99
    np.testing.assert_allclose(names["depth"], expected.depth, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(names["normals"], expected.normals, atol=1e-3)
    np.testing.assert_allclose(names["rays"], erp_rays(16, 32), atol=1e-6)


def test_the_page_tells_how_to_run_it_in_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomise(Small())
    export(network, tmp_path / "rooms.pt2", "torch-export", (96, 192))
    monkeypatch.chdir(tmp_path)
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S) if "pt2" in code)
    names: dict[str, Any] = {}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    assert [names[task].shape[1:] for task in network.tasks] == [(c, 96, 192) for c in (2, 1, 3)]


@pytest.fixture
def other_result(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load = module._load_program

    def changed(*given: Any) -> module.Run:
        run = load(*given)
        return lambda images: {task: 1.001 * values for task, values in run(images).items()}

    monkeypatch.setattr(module, "_load_program", changed)
    yield


def test_what_computes_something_else_is_not_written(other_result: None, tmp_path: Path) -> None:
    (tmp_path / "kept.pt2").write_text("what was there")
    with pytest.raises(ValueError, match=r"kept.pt2 was not written: semseg of .* differs from PyTorch by 1.0e-03"):
        export(randomise(Small()), tmp_path / "kept.pt2", "torch-export", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.pt2"]
    assert (tmp_path / "kept.pt2").read_text() == "what was there"


def test_weights_that_need_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    path = tmp_path / "large.onnx"
    assert export(randomise(Small()), path, "onnx") == [path, tmp_path / "large.onnx.data"]
    assert run_onnx(path, torch.rand(1, 3, 16, 32))["depth"].shape == (1, 1, 16, 32)


class Unwritable(Small):
    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        outputs = super().forward(image)
        return outputs if image.sum().item() > 0 else {}


@pytest.mark.parametrize(("options", "sentence"), [
    ({"format": "tflite"}, "format must be one of onnx, torch-export, not 'tflite'"),
    ({"size": (16, 64)}, "twice as wide as high: the network cannot be exported for 16 x 64"),
    ({"size": (0, 0)}, "cannot be exported for 0 x 0"),
    ({"network": Small().half()}, r"weights are torch.float16, but export needs float32: call network.float\(\)"),
    ({"network": Unwritable()}, "Unwritable cannot be written as torch-export: "),
    ({"path": "folder"}, "folder is a folder: name a file to write"),
])  # fmt: skip
def test_what_cannot_be_done_is_told(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    arguments: dict[str, Any] = {"network": Small(), "format": "torch-export", "path": "x.pt2"} | options
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises((ValueError, OSError), match=sentence):
        export(**arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.data"])
def test_files_that_exist_are_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("kept")
    with pytest.raises(FileExistsError, match=rf"{name} already exists: choose another name"):
        export(Small(), tmp_path / "x.onnx", "onnx")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "kept")]


@pytest.mark.parametrize("model", ["last.ckpt", "folder"])
def test_the_network_is_not_replaced_by_its_export(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    source = tmp_path / model
    path = source / "model.safetensors" if source.is_dir() else source
    path.write_text("kept")
    command = ["export", str(source), "--format", "onnx", "--out", str(path), "--overwrite"]
    assert main(command) == 1
    assert f"{path} is an input of this command" in capsys.readouterr().err
    assert path.read_text() == "kept"
    earlier = path.with_name("earlier.onnx")
    earlier.write_text("an export")
    assert main([*command[:-2], str(earlier), "--overwrite"]) == 1
    assert "is an input of this command" not in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r"ONNX export needs onnxscript: pip install 'mtpano_zoo\[export\]'"):
        export(Small(), tmp_path / "x.onnx", "onnx")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mtpano_zoo.zoo.load_model", lambda source: randomise(Small()))
    path = tmp_path / "small.pt2"
    command = ["export", "mtpano-tiny.rooms", "--format", "torch-export", "--out", str(path), "--height", "8"]
    assert main(command) == 0
    assert f"{path}: agrees with PyTorch within 1e-4" in capsys.readouterr().out
    assert torch.export.load(path).module()(torch.rand(2, 3, 8, 16))[1].shape == (2, 1, 8, 16)
    assert main([*command[:-2], "--width", "16"]) == 1
    assert "--width needs --height" in capsys.readouterr().err
    assert main(command) == 1
    assert "already exists" in capsys.readouterr().err
    for wrong in (["--height", "0"], ["--height", "8", "--width", "0"], ["--height", "-8"]):
        assert main([*command[:-2], *wrong, "--overwrite"]) == 1
        assert "twice as wide as high" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
