"""Data with planted defects, reports without their page, and somebody's predictions."""

import numpy as np
from fake_exr import exr
from planted import CLASSES, PlantedPredictor, PlantedRooms

from mtpano_zoo.evaluation.data_sets import EvaluationSet
from mtpano_zoo.evaluation.predictors import FunctionPredictor
from mtpano_zoo.evaluation.report import build_report
from mtpano_zoo.evaluation.runner import evaluate
from mtpano_zoo.image_io import write_npy, write_png


def planted(count=3):
    return EvaluationSet(PlantedRooms(count), CLASSES, "planted rooms", {"data": "planted"})


def predictor(name="mine", defect=None, seed=0, **options):
    return FunctionPredictor(PlantedPredictor(defect, seed), name, CLASSES, **options)


def scored(predictors, data, out, **options):
    """The report without its page, which takes most of the time."""
    judged = evaluate(predictors, data, out, **options)
    return build_report(judged, data, "defaults", options.get("skip", ()))


def write_exr(path, values):
    path.write_bytes(exr(Z=values.astype(np.float32)))


def depths(data, folder, change=lambda x: x, ending=".npy"):
    """Write labels of depth as somebody's predictions."""
    folder.mkdir(exist_ok=True)
    for i in range(len(data.samples)):
        values = change(data.samples[i]["depth"].numpy())
        path = folder / f"{data.samples.name(i)}{ending}"
        {".npy": write_npy, ".png": write_png, ".exr": write_exr}[ending](path, values)
    return folder
