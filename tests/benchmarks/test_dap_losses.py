"""The ablation of DAP's losses at the tiniest size: every loss is trained once, with the terms that its row says."""

import pytest
import yaml


@pytest.mark.slow
def test_every_row_is_trained_once_with_its_terms(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = ["--seeds=0", "--epochs=1", "--scenes=2", "--height=32", "--count=1", "--out", str(out)]
    benchmark.main(options)
    first = capsys.readouterr().out
    assert first.count("$ mtpano fit") == len(benchmark.LOSSES) == 4
    benchmark.main(options)
    again = capsys.readouterr().out
    assert "$ mtpano fit" not in again

    def table(said):
        return [line for line in said.splitlines() if line.startswith("|")]

    assert table(first) == table(again) and len(table(first)) == 6
    names = ("SILog-0", "distortion-map-0", "geometry-0", "sharpness-0")
    configs = [yaml.safe_load((out / name / "version_0" / "config.yaml").read_text()) for name in names]
    losses = [config["model"]["init_args"]["loss"]["init_args"] for config in configs]
    assert [loss["distortion"] for loss in losses] == [False, True, True, True]
    left_out = [sorted(name for name, weight in (loss["weights"] or {}).items() if weight == 0) for loss in losses]
    both = ["edges", "fidelity", "normals", "points"]
    assert left_out == [both, both, ["edges", "fidelity"], []]
