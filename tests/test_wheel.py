"""The wheel works without the repository: its own data files, from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mtpano_zoo.zoo.entries import entries

ROOT = Path(__file__).parents[1]
KINDS = ("safetensors", "md")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


# In one process, since each has to import PyTorch.
PROGRAM = """
import mtpano_zoo
from mtpano_zoo.cli import main
print("from", mtpano_zoo.__file__)
assert main(["models"]) == 0
print("loaded", mtpano_zoo.load_model("mtpano-tiny.rooms").card["source"])
main(["fit", "--config", "quickstart.yaml", "--print_config"])
"""


def test_it_holds_everything_and_nothing_else(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {"mtpano_zoo/checkpoints.yaml", "mtpano_zoo/configs/quickstart.yaml", "mtpano_zoo/py.typed"} <= names
    packaged = [entry.name for entry in entries().values() if entry.packaged]
    assert {f"mtpano_zoo/viewer/app/{name}" for name in ("page.html", "three.min.js", "three.LICENSE")} <= names
    assert packaged and {f"mtpano_zoo/weights/{name}.{kind}" for name in packaged for kind in KINDS} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mtpano_zoo"}


@pytest.mark.slow
def test_it_runs_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"from {unpacked}" in done.stdout
    assert "mtpano-large.408k" in done.stdout and "loaded mtpano-tiny.rooms" in done.stdout
    assert "PDBridgeNet" in done.stdout
