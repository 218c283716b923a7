"""All measures of one panorama, as a row of plain numbers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.evaluation import agreement, measures
from mtpano_zoo.evaluation.measures import Alignment, Ratio, error_of, mean_over
from mtpano_zoo.evaluation.predictors import Maps, Predictor
from mtpano_zoo.evaluation.protocol import labels_of
from mtpano_zoo.evaluation.regions import band_names, core, in_band
from mtpano_zoo.losses.validity import valid_depth, valid_normals
from mtpano_zoo.metrics.disparity import align_affine
from mtpano_zoo.sphere import rotate, rotation_matrix, to_cubemap, turn_vectors
from mtpano_zoo.tasks import SAMPLE_MAPS

__all__ = ("MEANING", "MEASURED", "matched_classes", "measure", "prepare", "tilts", "turned_label", "with_depth")

MEASURED = ("depth", "normals", "semseg")
ROLLS = (0.25, 0.5, 0.71)  # fractions of the width
ANGLES = (10, 20, 30)  # degrees
FACE = 0.5  # fraction of a panorama's rows: a cube face then is as sharp as its horizon
WALLS = "wall"


@cache
def tilts() -> dict[str, Tensor]:
    """Return rotations (3, 3) of the camera by name."""
    turns = {f"pitch {angle}": rotation_matrix(pitch=float(angle)) for angle in ANGLES}
    return turns | {f"roll {angle}": rotation_matrix(roll=float(angle)) for angle in ANGLES}


def with_depth(maps: Maps, labels: Mapping[str, Tensor]) -> Maps:
    """Add depth to maps that have only inverse distances, by the scale and shift that fit the labels best.

    An inverse distance up to a shift may be zero or negative; where it is not finite, depth gets no value.
    """
    if "depth" in maps or "disparity" not in maps or "depth" not in labels:
        return maps
    inverse, known = labels["disparity"][None], labels["disparity_valid"][None] & maps["disparity"].isfinite()[None]
    fitted = align_affine(maps["disparity"][None].float(), inverse, known.double())[0]
    farthest = labels["depth"].max().clamp(min=1e-3) * 10
    return maps | {"depth": torch.where(known[0], 1 / fitted.clamp(min=1 / farthest), 0).float()}


def matched_classes(classes: Sequence[str], wanted: Sequence[str]) -> Tensor | None:
    """Return the index of every class among the wanted ones, by name; unwanted classes get an index beyond them.

    Return None if no class is wanted or no name is shared. Without names, classes are taken to be the wanted ones.

    Example:
        >>> matched_classes(["wall", "sky"], ["floor", "wall"]).tolist()
        [1, 2]
    """
    if not wanted:
        return None
    if not classes:
        return torch.arange(len(wanted))
    if not set(classes) & set(wanted):
        return None
    places = {name: i for i, name in enumerate(wanted)}
    return torch.tensor([places.get(name, len(wanted)) for name in classes])


def prepare(maps: Maps, predictor: Predictor, classes: Sequence[str]) -> Maps:
    """Convert the classes of a prediction to the numbers of the labels, or leave them out."""
    if "semseg" not in maps:
        return maps
    numbers = matched_classes(predictor.classes, classes)
    if numbers is None:
        return {task: values for task, values in maps.items() if task != "semseg"}
    semseg = maps["semseg"].long()
    known = (semseg >= 0) & (semseg < len(numbers))
    return maps | {"semseg": torch.where(known, numbers[torch.where(known, semseg, 0)], len(classes))}


@dataclass(frozen=True)
class _Case:
    """One panorama with its labels, and its prediction.

    Attributes:
        predictor: predictor to call for rotated panoramas.
        sample: panorama with its labels.
        classes: class names of the labels.
        maps: prediction for the unrotated panorama.
        alignment: faults of the whole prediction.
    """

    predictor: Predictor
    sample: Mapping[str, Any]
    classes: Sequence[str]
    maps: Maps
    alignment: Alignment

    @property
    def labels(self) -> dict[str, Tensor]:
        return labels_of(self.sample)

    @property
    def shared(self) -> list[str]:
        """Tasks that are both predicted and labelled."""
        return [task for task in MEASURED if task in self.maps and task in self.sample]

    def predicted(self, image: Tensor, labels: Mapping[str, Tensor]) -> Maps:
        """Predict for the panorama as a rotated camera sees it."""
        maps = prepare(self.predictor(image, self.sample["id"]), self.predictor, self.classes)
        return with_depth(maps, labels)


def measure(
    predictor: Predictor, sample: Mapping[str, Any], classes: Sequence[str], maps: Maps, skip: Collection[str] = ()
) -> dict[str, Any]:
    """Return all measures of one sample by name; each is a `Ratio`, or several by name.

    Args:
        predictor: predictor to call for rotated panoramas and for cube faces.
        sample: panorama with its labels.
        classes: class names of the labels.
        maps: prediction for the sample, from `prepare`.
        skip: `yaw`, `tilt` or `cross`, each of which runs the predictor again.
    """
    labels = labels_of(sample)
    maps = with_depth(maps, labels)
    case = _Case(predictor, sample, classes, maps, measures.align(maps, labels))
    values: dict[str, Any] = {}
    for task in case.shared:
        values |= _of_task(task, maps[task], labels[task], case.alignment)
    if "semseg" in case.shared:
        values["swap/semseg"] = measures.class_swaps(maps["semseg"], labels["semseg"], classes)
    if "depth" in case.shared:
        values |= _of_depth(maps["depth"], labels, classes)
    if predictor.turns and "yaw" not in skip:
        values |= _yaw(case)
    if predictor.turns and "tilt" not in skip:
        values |= _tilt(case)
    if predictor.faces is not None and "depth" in maps and "cross" not in skip:
        image: Tensor = sample["image"]
        size = max(8, round(FACE * image.shape[1]))
        faces = predictor.faces(to_cubemap(image[None], size)[0])
        values["cross/faces"] = agreement.cross_on_faces(maps["depth"], faces)
        values["cross/panorama"] = agreement.cross_on_panorama(maps["depth"], faces)
    return {name: value for name, value in values.items() if _known(value)}


def _known(value: Ratio | Mapping[str, Ratio]) -> bool:
    return any(v[1] > 0 for v in value.values()) if isinstance(value, Mapping) else value[1] > 0


def _of_task(task: str, prediction: Tensor, target: Tensor, alignment: Alignment) -> dict[str, Any]:
    values: dict[str, Any] = {}
    error, size, known = error_of(task, prediction, target, alignment)
    if task != "semseg":
        values[f"seam/{task}"] = measures.seam_jump(error, known)
        values[f"poles/{task}"] = measures.polar_excess(size, known)
        valid = valid_depth if task == "depth" else valid_normals
        values[f"holes/{task}"] = measures.holes(valid(prediction), valid(target))
    if task == "normals":
        values["frame/normals"] = measures.frame_gain(prediction, target)[0]
    plain = error_of(task, prediction, target, Alignment(0.0, torch.eye(3)))
    shown = (plain[0][0].exp() - 1).abs() if task == "depth" else plain[1]
    values[f"bands/{task}"] = {
        name: mean_over(shown, plain[2] & in_band(known.shape[0], known.shape[1], i))
        for i, name in enumerate(band_names())
    }
    return values


def _of_depth(depth: Tensor, labels: Mapping[str, Tensor], classes: Sequence[str]) -> dict[str, Any]:
    known = valid_depth(depth)
    values: dict[str, Any] = {
        "scale/depth": measures.scale(depth, labels["depth"]),
        "edges/depth": measures.edges(depth, labels["depth"]),
        "seam/prediction": measures.seam_jump(torch.where(known, depth, 1).log()[None], known),
    }
    walls = [i for i, name in enumerate(classes) if name == WALLS]
    if walls and "normals" in labels and "semseg" in labels:
        on_walls = torch.isin(labels["semseg"], torch.tensor(walls))
        values["planes/depth"] = measures.planarity(depth, labels["depth"], labels["normals"], on_walls)
    return values


def _yaw(case: _Case) -> dict[str, Any]:
    image: Tensor = case.sample["image"]
    maps, frame = case.maps, case.alignment.frame
    if "normals" in maps:  # vectors of another frame would not turn with the camera
        maps = maps | {"normals": turn_vectors(maps["normals"].float(), frame)}
    width = image.shape[2]
    columns = [round(part * width) for part in ROLLS]
    rolled = []
    for count in columns:  # the camera turns right by this many columns
        turned = case.predicted(image.roll(-count, -1), {k: v.roll(-count, -1) for k, v in case.labels.items()})
        rolled.append({task: values.roll(count, -1) for task, values in turned.items()})
        if "normals" in turned:
            turn = rotation_matrix(yaw=360.0 * count / width)
            rolled[-1]["normals"] = turn_vectors(rolled[-1]["normals"].float(), turn @ frame)
    return {
        f"yaw/{task}": agreement.roll_spread(task, maps[task], [other[task] for other in rolled], columns)
        for task in case.shared
    }


def _tilt(case: _Case) -> dict[str, Any]:
    labels, alignment = case.labels, case.alignment
    smooth = {task: measures.away_from_boundaries(task, labels[task]) for task in case.shared}
    errors = {
        task: {"upright": _core_error(task, case.maps[task], labels[task], where, alignment)}
        for task, where in smooth.items()
    }
    for name, rotation in tilts().items():
        image = rotate(case.sample["image"][None], rotation)[0].clamp(0, 1)
        seen = {task: turned_label(task, labels[task], where, rotation) for task, where in smooth.items()}
        leaning = case.predicted(image, labels_of({task: label for task, (label, _) in seen.items()}))
        for task, (label, where) in seen.items():
            errors[task][name] = _core_error(task, leaning[task], label, where, alignment)
    values: dict[str, Any] = {}
    for task, by_name in errors.items():
        values[f"turned/{task}"] = by_name
        total, weight = by_name["upright"]
        values[f"tilt/{task}"] = {
            name: (part[0] / part[1] - total / weight, 1.0)
            for name, part in by_name.items()
            if name != "upright" and part[1] and weight
        }
    return values


def turned_label(task: str, label: Tensor, smooth: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Return a label as a rotated camera sees it, and where (H, W) resampling has not changed it.

    Inverse distances are interpolated instead of distances, because those of a plane are smooth.

    Args:
        task: `depth`, `normals` or `semseg`.
        label: (H, W), or (3, H, W) for normals.
        smooth: mask (H, W) of the pixels that lie away from boundaries.
        rotation: camera-to-world (3, 3) of the rotated camera.
    """
    known = smooth & (label > 0) if task == "depth" else smooth
    where = rotate(known[None, None].float(), rotation)[0, 0] > 0.999
    if task == "depth":
        inverse = rotate(torch.where(label > 0, 1 / label.clamp(min=1e-6), 0)[None, None], rotation)[0, 0]
        return torch.where(where, 1 / inverse.clamp(min=1e-9), 0), where
    turned = rotate(label.reshape(1, -1, *label.shape[-2:]), rotation, SAMPLE_MAPS[task].sampling)[0]
    return turned if task == "normals" else turned[0], where


def _core_error(task: str, prediction: Tensor, target: Tensor, where: Tensor, alignment: Alignment) -> Ratio:
    _, size, known = error_of(task, prediction, target, alignment)
    return mean_over(size, known & where & core(*known.shape))


# What every measure means; the key is its name, or the first part of it.
MEANING: dict[str, str] = {
    "scale": "median of predicted over true distance; 1 is right",
    "holes": "share of the labelled solid angle without a predicted value",
    "seam": "step of the error across the 0/360 border over the step between neighbouring columns; 1 is no seam",
    "seam/prediction": "the same for the prediction itself, which needs no label; scene edges at the border count",
    "poles": "error above 60 degrees of latitude over the error below, without the common scale or frame",
    "yaw": "mean difference between predictions for rolled panoramas, rolled back, and for the original",
    "tilt": "increase of the error with the camera tilted by 10, 20 or 30 degrees, in the worst of six directions",
    "turned": "error at every tilt: |log ratio| without the common scale, degrees, share of wrong pixels",
    "cross/faces": "mean |log ratio| between distances predicted for cube faces alone and those cut from the panorama",
    "cross/panorama": "the same with the predictions for the faces joined into a panorama",
    "edges": "agreement of depth boundaries within one pixel, from 0 to 1",
    "planes": "deviation of walls from planes, as a share of their distance",
    "frame": "degrees that normals gain in another frame of axes; 0 is right",
    "swap": "how much two classes are mistaken for one another, for the worst pair, from 0 to 1",
    "bands": "error by latitude, as predicted: AbsRel, degrees, share of wrong pixels",
}
