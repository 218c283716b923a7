"""A right prediction with one planted defect moves the measure of that defect, and no other by more than noise."""

import pytest
from planted import CLASSES, DEFECTS, PlantedPredictor, PlantedRooms

from mtpano_zoo.evaluation.predictors import FunctionPredictor
from mtpano_zoo.evaluation.report import CURVES
from mtpano_zoo.evaluation.scoring import measure
from mtpano_zoo.evaluation.statistics import value_of

ROOMS, SEEDS = 3, 4
OWN = {
    "seam": {"seam/depth", "seam/prediction"},
    "poles": {"poles/depth"},
    "tilt": {"tilt/depth", "tilt/normals", "tilt/semseg"},
    "yaw": {"yaw/depth"},
    "scale": {"scale/depth"},
    "holes": {"holes/depth"},
    "mirrored": {"frame/normals"},
    "swap": {"swap/semseg"},
}
CLEAR = 3.0  # a defect moves its own measure by more than this many times the noise
SMALLEST = 1e-3  # what counts as noise at least: three digits are printed


def judged(defect, seed=0):
    predictor = FunctionPredictor(PlantedPredictor(defect, seed), "planted", CLASSES)
    rooms = PlantedRooms(ROOMS)
    rows = []
    for i in range(ROOMS):
        sample = rooms[i]
        rows.append(measure(predictor, sample, CLASSES, predictor(sample["image"], sample["id"])))
    names = [name for name in rows[0] if name.split("/")[0] not in CURVES]
    return {name: value_of([row.get(name) for row in rows]) for name in names}


@pytest.fixture(scope="module")
def clean():
    return [judged(None, seed) for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def noise(clean):
    """How far a measure moves with the noise of the predictor alone."""
    return {name: max(max(run[name] for run in clean) - min(run[name] for run in clean), SMALLEST) for name in clean[0]}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_moves_its_own_measure_only(defect, clean, noise):
    moved = {name: abs(value - clean[0][name]) / noise[name] for name, value in judged(defect).items()}
    assert moved.keys() == noise.keys()
    assert {name for name, change in moved.items() if change > 1} == OWN[defect]
    assert min(moved[name] for name in OWN[defect]) > CLEAR


def test_every_measure_of_a_right_prediction_is_right(clean):
    one = clean[0]
    assert one["scale/depth"] == pytest.approx(1, abs=0.01)
    assert one["edges/depth"] == pytest.approx(1, abs=0.02)
    assert all(one[name] == pytest.approx(1, abs=0.4) for name in ("seam/depth", "seam/normals", "poles/depth"))
    assert all(one[name] == 0 for name in ("holes/depth", "holes/normals", "frame/normals"))
    assert max(one["tilt/depth"], one["swap/semseg"], one["tilt/semseg"]) < 0.01
    assert one["planes/depth"] == pytest.approx(0.01, abs=0.005)  # the noise of the predictor
