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


def run_in(empty: Path, site: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_everything_and_nothing_else(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {"mtpano_zoo/checkpoints.yaml", "mtpano_zoo/configs/quickstart.yaml", "mtpano_zoo/py.typed"} <= names
    packaged = [entry.name for entry in entries().values() if entry.packaged]
    assert {f"mtpano_zoo/viewer/app/{name}" for name in ("page.html", "three.min.js", "three.LICENSE")} <= names
    assert packaged and {f"mtpano_zoo/weights/{name}.{kind}" for name in packaged for kind in KINDS} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mtpano_zoo"}


@pytest.mark.slow
def test_it_runs_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    where = run_in(tmp_path, unpacked, "-c", "import mtpano_zoo; print(mtpano_zoo.__file__)")
    assert Path(where.strip()).is_relative_to(unpacked)
    assert "mtpano-large.408k" in run_in(tmp_path, unpacked, "-m", "mtpano_zoo.cli", "models")
    load = "import mtpano_zoo; print(mtpano_zoo.load_model('mtpano-tiny.rooms').card['source'])"
    assert "mtpano-tiny.rooms" in run_in(tmp_path, unpacked, "-c", load)
    fit = ["-m", "mtpano_zoo.cli", "fit", "--config", "quickstart.yaml", "--print_config"]
    assert "PDBridgeNet" in run_in(tmp_path, unpacked, *fit)
