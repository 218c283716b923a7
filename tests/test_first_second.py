"""What a command imports before it has anything to do: every package named here takes long to import."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DRAWING = {"matplotlib"}
NETWORKS = {"timm", "torchvision", "torch._dynamo"}
TRAINING = {"lightning", "torchmetrics", "albumentations", "transformers", "scipy", "pandas", "onnx", "onnxruntime"}
EVERYTHING = {"torch", *DRAWING, *NETWORKS, *TRAINING}
# Run as a program of its own, since these tests have imported most of it; it prints after the command's own output.
COMMAND = """
import sys
from mtpano_zoo.cli import main
try:
    status = main({arguments!r})
except SystemExit as end:
    status = end.code
"""
ENDING = "\nimport sys; print('IMPORTED', *(name for name in {names!r} if name in sys.modules))"


def imported(program: str, folder: Path, names: set[str] = EVERYTHING) -> set[str]:
    """Return which of the packages a program has imported at its end."""
    code = program + ENDING.format(names=sorted(names))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize("arguments", [
    ["--help"],
    ["run", "--help"],
    ["export", "--help"],
    ["models"],
    ["models", "no-such-model"],
    ["run", "room.jpg", "--batch-size", "0"],
    ["run", "room.jpg", "--workers", "x"],
    ["run", "room.jpg", "--model", "mtpano-larg"],
    ["run", "room.jpg", "--model", "none/best.ckpt"],
    ["run", "no_such_room.jpg"],
    ["export", "mtpano-larg", "--format", "onnx", "--out", "x.onnx"],
    ["export", "mtpano-tiny.rooms", "--format", "onnx", "--out", "room.jpg"],
], ids=" ".join)  # fmt: skip
def test_help_lists_and_mistakes_need_no_pytorch(arguments: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "room.jpg")
    assert imported(COMMAND.format(arguments=arguments), tmp_path) == set()
    assert [path.name for path in tmp_path.iterdir()] == ["room.jpg"]


@pytest.mark.parametrize("program", [
    "import mtpano_zoo",
    "from mtpano_zoo import load_model, list_models; list_models()",
    "import mtpano_zoo\ntry: mtpano_zoo.load_model('mtpano-larg')\nexcept ValueError: pass",
])  # fmt: skip
def test_public_names_need_no_pytorch(program: str, tmp_path: Path) -> None:
    assert imported(program, tmp_path) == set()


@pytest.mark.parametrize("module", ["prediction", "run"])  # a process that writes imports `run`
def test_predictions_are_written_without_networks(module: str, tmp_path: Path) -> None:
    assert imported(f"import mtpano_zoo.{module}", tmp_path) == {"torch"}


@pytest.mark.slow
def test_networks_need_nothing_of_training(tmp_path: Path) -> None:
    program = "from mtpano_zoo import load_model; load_model('mtpano-tiny.rooms')"
    assert imported(program, tmp_path, DRAWING | TRAINING) == set()


def test_what_is_imported_would_be_found(tmp_path: Path) -> None:
    assert imported("import mtpano_zoo.viz.colours", tmp_path) == DRAWING
