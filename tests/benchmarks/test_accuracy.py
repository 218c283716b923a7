"""Scores of diverged networks, and what is missing for the scores."""

import math

import fake_threed60
import pytest
import torch
from fake_files import write

from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.models import PanoramaNetwork

HEIGHT, WIDTH = 32, 64


class Oracle(PanoramaNetwork):
    """Predicts the truth, but in the first rows what is no number."""

    def __init__(self, rows: int, junk: float) -> None:
        super().__init__(("depth", "normals"), (HEIGHT, WIDTH))
        self.room = RoomsDataset("test", 1, HEIGHT, WIDTH)[0]
        self.rows, self.junk = rows, junk

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = {"depth": self.room["depth"][None, None], "normals": self.room["normals"][None]}
        outputs = {task: x.expand(len(image), -1, -1, -1).clone() for task, x in outputs.items()}
        for x in outputs.values():
            x[:, :, : self.rows] = self.junk
        return outputs


@pytest.mark.parametrize("junk", [math.nan, math.inf])
@pytest.mark.parametrize("rows", [0, 8, HEIGHT])
def test_what_is_not_finite_shows_with_and_without_predict(benchmark, rows, junk):
    network = Oracle(rows, junk).eval()
    for run in (network, benchmark.at_size_of_labels(network)):
        scores = benchmark.score(run, benchmark.rooms(1, (HEIGHT, WIDTH)))
        assert list(scores) == [name for name in benchmark.COLUMNS if name != "mIoU"]
        assert scores["not finite"] == pytest.approx(rows / HEIGHT)
        assert (
            math.isnan(scores["AbsRel"]) == math.isnan(scores["aligned"]) == math.isnan(scores["delta1"]) == (rows > 0)
        )
        assert scores["normals, mean"] == pytest.approx(180 * rows / HEIGHT, abs=0.1)


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
    assert "holds only panoramas of Matterport3D" in capsys.readouterr().err
    monkeypatch.setattr(
        "sys.argv", ["accuracy.py", "--threed60", str(tmp_path), "--height", "32", "--parts", "Matterport3D"]
    )
    with pytest.raises(AssertionError, match="something was scored"):  # all that is asked for is there
        benchmark.main()
