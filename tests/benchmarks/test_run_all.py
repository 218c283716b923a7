"""The command that runs the benchmarks: every script of both lists runs at its smallest size, and tables are kept."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import pytest

README = "# Benchmarks\n\n<!-- cpu begins -->\nold\n<!-- cpu ends -->\n\n<!-- gpu begins -->\n<!-- gpu ends -->\nlast\n"


@pytest.fixture
def in_this_process(benchmark, monkeypatch):
    """Run scripts without the seconds that a process takes to import PyTorch."""

    def run_script(words, limit):
        printed = io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, "argv", [str(benchmark.HERE / words[0]), *words[1:]])
            runpy.run_path(sys.argv[0], run_name="__main__")
        return printed.getvalue(), None

    monkeypatch.syspath_prepend(benchmark.HERE)
    monkeypatch.setattr(benchmark, "run_script", run_script)


def written(benchmark, kind, folder: Path, *options: str) -> tuple[dict, str]:
    readme = folder / "README.md"
    readme.write_text(README)
    benchmark.main([kind, "--tiny", "--results", str(folder), "--readme", str(readme), *options])
    (results,) = folder.glob("*.json")
    return json.loads(results.read_text()), readme.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_benchmark_prints_a_table_that_is_kept(kind, benchmark, in_this_process, tmp_path, capfd) -> None:
    report, readme = written(benchmark, kind, tmp_path)
    listed = {"cpu": benchmark.CPU, "gpu": benchmark.GPU}[kind]
    assert [entry["title"] for entry in report["benchmarks"]] == [title for title, *_ in listed]
    for entry in report["benchmarks"]:
        assert "error" not in entry, entry
        for table in entry["tables"]:
            assert table["rows"], entry
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert readme.startswith("# Benchmarks\n") and readme.endswith("last\n")
    inside = readme.partition(f"<!-- {kind} begins -->")[2].partition(f"<!-- {kind} ends -->")[0]
    assert all(f"**{title}**" in inside for title, *_ in listed)
    assert ("old" in readme) == (kind == "gpu")


def test_failures_and_lack_of_time_are_named(benchmark, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(benchmark, "GPU", [("Works", "a.py", ""), ("Fails", "b.py", "")])
    answers = {"a.py": ("text\n\n| a | b |\n|---|--:|\n| x | 1 |\n", None), "b.py": ("", "status 1: no such thing")}
    monkeypatch.setattr(benchmark, "run_script", lambda words, limit: answers[words[0]])
    with pytest.raises(SystemExit):
        written(benchmark, "gpu", tmp_path)
    (results,) = tmp_path.glob("*.json")
    works, fails = json.loads(results.read_text())["benchmarks"]
    assert works["tables"] == [{"text": "text", "columns": ["a", "b"], "rows": [["x", "1"]]}]
    assert fails["error"] == "status 1: no such thing"
    report, _ = written(benchmark, "gpu", tmp_path, "--minutes", "0.1")
    assert {entry["error"] for entry in report["benchmarks"]} == {"no time was left"}
