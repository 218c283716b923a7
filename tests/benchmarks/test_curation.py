"""All stages of curation in one go, by the shipped configurations at the tiniest size."""

import pytest

from mtpano_zoo.data import PseudoLabelDataModule


@pytest.mark.slow
def test_three_stages_end_to_end(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    steps = [f"--{name}-steps=1" for name in ("labeler", "discriminator", "student")]
    sizes = {"height": 32, "scenes": 8, "discriminator-scenes": 4, "panoramas": 8, "test-panoramas": 2, "width": 4}
    size = [f"--{name}={number}" for name, number in sizes.items()]
    benchmark.main(["--out", str(tmp_path / "out"), *size, *steps, "--threads=1"])
    said = capsys.readouterr().out
    for stage in ("curate label", "curate score", "curate select"):
        assert f"$ mtpano {stage}" in said
    assert "| copied |" in said and " of 8" in said.split("tells rooms from streets in")[1]
    assert {"best.png", "worst.png", "labels", "labels-scores", "labels-selected", "relabelled", "last-student"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    selected = PseudoLabelDataModule(tmp_path / "out" / "labels-selected", height=32, width=64)
    assert sorted(selected.dataset("train")[i]["id"].split("-")[0] for i in range(2)) == ["room", "street"]
