import os
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from processes import begin
from waiting import until

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


# What a notebook writes, and how many pictures it shows.
EXPECTED = {
    "01_quickstart": ("room.ply", 2),
    "02_finetune": ("everything.ckpt", 1),
    "03_label_free": ("labels/manifest.json", 5),
}


def test_every_notebook_is_known() -> None:
    assert sorted(EXPECTED) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def execute(name: str, folder: Path) -> None:
    """Run the cells of a notebook as a kernel does, and write how many pictures they show."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(folder)
    shell = InteractiveShell.instance()
    shell.enable_gui = lambda gui=None: None  # for windows, of which there are none
    results = []
    shell.display_pub = CapturingDisplayPublisher(parent=shell)
    shell.displayhook.write_format_data = lambda data, metadata=None: results.append(data)
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()
    shown = results + [output["data"] for output in shell.display_pub.outputs]
    Path("pictures").write_text(str(sum(bool({"image/png", "image/jpeg"} & data.keys()) for data in shown)))


@pytest.fixture(scope="module")
def imported() -> None:
    """What the notebooks import, so that their processes, which are forked, have it."""
    for module in ("IPython", "matplotlib_inline.backend_inline", "mtpano_zoo.labeling.run", "mtpano_zoo.training.cli"):
        import_module(module)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.slow
def test_notebook_runs(name: str, imported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setenv("HEIGHT", "32")
    process = begin(execute, name, tmp_path, log=tmp_path / "log")
    try:
        until(lambda: not process.is_alive(), 300)
    finally:
        process.kill()
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
    written, pictures = EXPECTED[name]
    assert (tmp_path / "pictures").read_text() == str(pictures)
    assert (tmp_path / written).stat().st_size > 1000
