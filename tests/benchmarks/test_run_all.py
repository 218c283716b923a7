"""The command that runs the benchmarks: what scripts print is kept as tables."""

import json
from pathlib import Path

import pytest

README = "# Benchmarks\n\n<!-- cpu begins -->\nold\n<!-- cpu ends -->\n\n<!-- gpu begins -->\n<!-- gpu ends -->\nlast\n"


def written(benchmark, kind, folder: Path, *options: str) -> tuple[dict, str]:
    readme = folder / "README.md"
    readme.write_text(README)
    benchmark.main([kind, "--tiny", "--results", str(folder), "--readme", str(readme), *options])
    (results,) = folder.glob("*.json")
    return json.loads(results.read_text()), readme.read_text()


TABLE = r"print('Losses\n\n| loss | seconds |\n|---|--:|\n| BerHu | 0.1 |\n| SILog | 0.2 |')"


def test_tables_of_scripts_are_kept(benchmark, monkeypatch, tmp_path) -> None:
    (tmp_path / "losses.py").write_text(TABLE)
    monkeypatch.setattr(benchmark, "HERE", tmp_path)
    monkeypatch.setattr(benchmark, "CPU", [("Loss", "losses.py", "--small")])
    report, readme = written(benchmark, "cpu", tmp_path)
    (entry,) = report["benchmarks"]
    assert "error" not in entry and entry["tables"], entry
    for table in entry["tables"]:
        assert table["rows"] and {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert readme.startswith("# Benchmarks\n") and readme.endswith("last\n")
    inside = readme.partition("<!-- cpu begins -->")[2].partition("<!-- cpu ends -->")[0]
    assert "**Loss**" in inside and "old" not in readme


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_every_script_that_is_listed_exists(kind, benchmark) -> None:
    for title, *commands in getattr(benchmark, kind):
        assert title and (benchmark.HERE / benchmark.split(commands[0])[0]).is_file()


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
