"""From a panorama to named maps in metres and unit vectors: `predict`, and the `Prediction` that it returns."""

from mtpano_zoo.prediction.maps import Prediction, output_paths
from mtpano_zoo.prediction.pipeline import SKY, check_options, predict
from mtpano_zoo.prediction.sources import Source

__all__ = ("SKY", "Prediction", "Source", "check_options", "output_paths", "predict")
