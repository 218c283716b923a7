"""A network whose predictions are no numbers does not look like a good one, by whichever way it is scored."""

import math

import pytest
import torch

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
