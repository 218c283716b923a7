"""What is missing for the scores is noticed before any is computed."""

import fake_threed60
import pytest
from fake_files import write


def test_a_missing_part_of_3d60_is_noticed_first(benchmark, tmp_path, monkeypatch, capsys):
    files = {path: data for path, data in fake_threed60.files().items() if path.startswith("Matterport3D/")}
    write(tmp_path, files)

    def score(*_):
        raise AssertionError("something was scored")

    monkeypatch.setattr(benchmark, "score", score)
    monkeypatch.setattr(benchmark, "load_model", score)
    arguments = ["accuracy.py", "--threed60", str(tmp_path), "--height", "32"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "holds no panorama of the form Stanford2D3D/" in capsys.readouterr().err
    monkeypatch.setattr(
        "sys.argv", ["accuracy.py", "--threed60", str(tmp_path), "--height", "32", "--parts", "Matterport3D"]
    )
    with pytest.raises(AssertionError, match="something was scored"):  # all that is asked for is there
        benchmark.main()
