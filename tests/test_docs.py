"""The documentation: its pages are reachable, its commands exist, and the code of "Adding a ..." does what it says."""

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mtpano_zoo.cli import build_parser
from mtpano_zoo.resources import shipped

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ADDING = sorted(DOCS.glob("adding-a-*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="only a checkout has the documentation")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, file and text of the code blocks whose first line is a comment that names a file."""
    found = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        first, _, rest = text.partition("\n")
        if re.fullmatch(r"# [\w/]+\.(py|yaml)", first):
            found.append((language, first.removeprefix("# "), rest))
    return found


def patched(text: str, diff: str) -> str:
    """Apply hunks that `@@` separates: lines that stay or go must stand in the text together, once."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert f"\n{text}".count(f"\n{old}") == 1, f"the house has changed: it has not once\n{old}"
        text = f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]
    return text


def test_every_page_is_in_a_table_of_contents():
    listed = re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {line for block in listed for line in block.splitlines()}
    assert {page.stem for page in PAGES} - {"index"} <= names


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_commands_name_verbs_and_configurations_that_exist(page):
    own = {name for _, name, _ in blocks(page)}
    verbs = next(action.choices for action in build_parser()._actions if action.choices)
    for _, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines():
            if not line.startswith("mtpano "):
                continue
            words = line.split(" #")[0].split()
            assert words[1] in verbs, line
            for option, name in pairwise(words):
                if option == "--config" and not name.isupper() and "/config.yaml" not in name and name not in own:
                    assert (shipped("configs") / name).is_file(), line


@pytest.mark.parametrize("page", ADDING, ids=lambda page: page.name)
def test_what_a_page_says_that_adding_costs(page):
    """Files of the package that are made or changed, and lines that are added there."""
    parts = [part for part in blocks(page) if part[1].startswith("mtpano_zoo/")]
    files = {name for _, name, _ in parts}
    lines = sum(
        sum(line.startswith("+") for line in text.splitlines()) if language == "diff" else len(text.splitlines())
        for language, _, text in parts
    )
    assert f"touches {len(files)} files and adds {lines} lines" in " ".join(page.read_text(encoding="utf-8").split())
    row = f"]({page.relative_to(ROOT).as_posix()}) | {len(files)} | {lines} |"
    assert row in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(files) <= 5


@pytest.mark.slow
def test_the_code_of_the_pages_works(tmp_path):
    """All four pages are followed in a copy of the package, and the tests that they end with run there."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "mtpano_zoo", copy / "mtpano_zoo", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copytree(shipped("configs"), copy / "configs")
    shutil.copy(shipped("checkpoints.yaml"), copy)
    tests = []
    for page in ADDING:
        configs = {name: text for language, name, text in blocks(page) if language == "yaml"}
        for language, name, text in blocks(page):
            path = copy / name
            if language == "diff":
                path.write_text(patched(path.read_text(encoding="utf-8"), text), encoding="utf-8")
            elif language == "python":
                assert not path.exists(), f"{page.name}: {name} exists already"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                if Path(name).name.startswith("test_"):
                    tests.append(name)
        for name, text in configs.items():
            (copy / name).write_text(text, encoding="utf-8")
    assert len(tests) == len(ADDING) == 4
    # A test finds the configuration of its page in its folder, as a reader has both.
    fixture = (
        "import pathlib, shutil, pytest\n"
        "@pytest.fixture\n"
        "def tmp_path(tmp_path):\n"
        "    for path in pathlib.Path(__file__).parent.glob('*.yaml'):\n"
        "        shutil.copy(path, tmp_path)\n"
        "    return tmp_path\n"
    )
    (copy / "conftest.py").write_text(fixture, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "tests" / "fakes")]),
        "OMP_NUM_THREADS": "1",
    }
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(copy)]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
