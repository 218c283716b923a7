from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


# What a notebook writes, and how many pictures it shows.
EXPECTED = {
    "01_quickstart": ("room.ply", 2),
    "02_finetune": ("everything.ckpt", 1),
    "03_label_free": ("labels/manifest.json", 5),
}


def test_every_notebook_is_known() -> None:
    assert sorted(EXPECTED) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.slow
def test_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setenv("HEIGHT", "32")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if {"image/png", "image/jpeg"} & output.get("data", {}).keys()
    ]
    written, pictures = EXPECTED[name]
    assert len(figures) == pictures
    assert (tmp_path / written).stat().st_size > 1000
