"""What is scored: a network, a folder of predictions, or a callable."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtpano_zoo import image_io
from mtpano_zoo.data.folder import decode_png_or_npy_normals
from mtpano_zoo.data.reading import decode_array, open_image, stored_numbers, stored_steps, unit_or_zero
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import read_file
from mtpano_zoo.manifest import MANIFEST, describe_model, hash_of_files
from mtpano_zoo.metrics.semseg import predicted_classes
from mtpano_zoo.output_paths import path_below, printable
from mtpano_zoo.prediction.folder import FORMAT, RECORDS, check_finished, classes_and_reading, read_records
from mtpano_zoo.sphere import erp_rays, from_cubemap, to_cubemap
from mtpano_zoo.tasks import MAIN_TASKS
from mtpano_zoo.text_files import read_json

__all__ = ("UNITS", "FolderPredictor", "FunctionPredictor", "Kind", "Maps", "NetworkPredictor", "Predictor")

Kind = Literal["ray", "z", "disparity"]
Maps = dict[str, Tensor]
NOTHING = 1e9  # 3D60 stores 1e10 where a ray meets nothing, whatever the unit
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
ENDINGS = (".npy", ".exr", ".png")


class Predictor:
    """Predict depth (H, W) in metres along the ray, normals (3, H, W), semseg, disparity and valid (H, W).

    Depth without a value is 0. Disparity without a value is NaN: up to a shift, any number may be one.

    Attributes:
        name: name in reports.
        classes: names of its semantic classes; empty if they are those of the labels.
        turns: whether it can predict for rotated panoramas.
        faces: a function from cube faces (6, 3, S, S) of 90 degrees to distances along the ray (6, S, S), or None.
        words: description in one sentence.
    """

    name: str
    classes: tuple[str, ...] = ()
    turns: bool = True
    faces: Callable[[Tensor], Tensor] | None = None
    words: str = ""

    def __call__(self, image: Tensor, sample_id: str) -> Maps:
        """Predict for an image (3, H, W) in [0, 1]."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return the settings that determine the predictions, as plain data."""
        raise NotImplementedError


class NetworkPredictor(Predictor):
    """A network of the zoo, as `mtpano run` uses it: it runs at its own size, its maps have the panorama's size."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self.network = network
        self.name = printable(name)
        self.classes = tuple(getattr(network, "classes", ()))
        height, width = getattr(network, "input_size", (0, 0))
        self.words = f"a network that runs at {height} x {width} pixels; its maps are resized to the panorama's size"
        self.faces = self._faces if "depth" in getattr(network, "tasks", ()) else None

    def __call__(self, image: Tensor, sample_id: str) -> Maps:
        """Predict."""
        return self._maps(image)

    def _maps(self, image: Tensor, level: bool | None = None) -> Maps:
        from mtpano_zoo.prediction import predict

        prediction: Any = predict(self.network, image, level=level)
        maps = {task: torch.from_numpy(np.ascontiguousarray(values)) for task, values in prediction.maps.items()}
        if "normals" in maps:
            maps["normals"] = maps["normals"].movedim(-1, 0)
        if "disparity" in maps:  # of networks, it is positive, and 0 is no value
            maps["disparity"] = torch.where(maps["disparity"] > 0, maps["disparity"], torch.nan)
        return maps

    def _faces(self, images: Tensor) -> Tensor:
        """Predict for each cube face alone, on a sphere that is black elsewhere, as `mtpano run` does for a crop."""
        side = images.shape[-1]
        depths = []
        for number, image in enumerate(images):
            alone = torch.zeros(1, *images.shape)
            alone[0, number] = image
            depth = self._maps(from_cubemap(alone, 2 * side, 4 * side)[0], level=False)["depth"]
            depths.append(to_cubemap(depth[None, None], side, "depth")[0, number, 0])
        return torch.stack(depths)

    def facts(self) -> dict[str, Any]:
        """Return its weights and configuration."""
        return describe_model(self.network, self.name)


class FunctionPredictor(Predictor):
    """A callable from an image (3, H, W) in [0, 1] to a dict of maps, for your own network.

    Args:
        function: returns any of `depth` (H, W) or (1, H, W), `normals` (3, H, W), `semseg` as classes (H, W) or logits
            (C, H, W), `disparity` like depth, `valid` bool (H, W).
        name: name in reports; results of two functions under the same name would mix.
        classes: names of its semantic classes; those of the data by default.
        faces: see `Predictor`.
    """

    words = "a callable in Python"

    def __init__(
        self,
        function: Callable[[Tensor], Mapping[str, Tensor]],
        name: str,
        classes: Sequence[str] = (),
        faces: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.classes = tuple(classes)
        self.faces = faces

    def __call__(self, image: Tensor, sample_id: str) -> Maps:
        """Predict.

        Raises:
            InputError: If a map belongs to no task, its size differs from the image's, or the number of logits from
                that of the classes.
        """
        size = tuple(image.shape[1:])
        maps = {}
        for task, values in self.function(image.clone()).items():  # which may normalise it in place
            if task not in MAIN_TASKS:
                raise InputError(
                    f"{self.name} returns {task!r}, which is not a task: return any of {', '.join(MAIN_TASKS)}"
                )
            values = values.detach().cpu().clone()  # it may be a buffer that the next call changes
            if task == "normals":
                values = nn.functional.normalize(values.float(), dim=0)
            elif values.ndim == 3 and len(values) == 1:
                values = values[0]
            elif task == "semseg" and values.ndim == 3:
                if self.classes and len(values) != len(self.classes):
                    raise InputError(f"{self.name} returns {len(values)} logits, but names {len(self.classes)} classes")
                values = predicted_classes(values[None])[0][0]
            if values.shape != ((3, *size) if task == "normals" else size):
                raise InputError(
                    f"{self.name} returns {task} {tuple(values.shape)} for an image of {size[0]} x {size[1]}"
                )
            maps[task] = values
        return maps

    def facts(self) -> dict[str, Any]:
        """Return its name, which is all that is known."""
        return {"function": self.name}


class FolderPredictor(Predictor):
    """Predictions in a folder, by the ids of the panoramas.

    Files are `TASK/ID.npy`, `.exr` or `.png`, or `ID_depth.png` and so on as `mtpano run` writes them, or, for
    distances only, `ID.npy`, `.exr` or `.png` in the folder itself. Depth is 16-bit grey or floating point; normals are
    as in `FolderDataModule`, or an EXR of (x, y, z); semseg is a PNG or NPY of class numbers, for the classes that a
    manifest of `mtpano run` lists, or else for those of the labels.

    Args:
        folder: the folder.
        unit: unit of distances: `m`, `cm`, `mm`, or metres per step. By default NPY and EXR hold metres, and so do
            the millimetres of an `ID_depth.png`; any other PNG needs a unit.
        kind: type of distance: along the `ray`, `z` along the axis of the cube face that the pixel lies on, or
            `disparity`, the inverse distance up to scale and shift, which has no unit and may be negative.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If the unit or kind is unknown.
    """

    turns = False

    def __init__(self, folder: str | Path, unit: str | None = None, kind: Kind = "ray") -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder of predictions at {folder}")
        if kind not in ("ray", "z", "disparity"):
            raise InputError(f"--kind is ray, z or disparity, not {kind!r}")
        try:
            self.step = None if unit is None else float(UNITS.get(unit, unit))
        except ValueError:
            self.step = 0.0
        if self.step is not None and not 0 < self.step < float("inf"):
            raise InputError(f"--unit is m, cm, mm or metres per step, such as 0.00025, not {unit!r}")
        self.kind = kind
        self.name = printable(self.folder.resolve().name)
        self.classes, self.records = _recorded(self.folder)
        self.words = f"predictions in a folder; distances: {kind}, in {unit or 'the unit of their format'}"

    def __call__(self, image: Tensor, sample_id: str) -> Maps:
        """Read.

        Raises:
            FileNotFoundError: If there is no file for a panorama.
            InputError: If a file cannot be read, is of another size, or is unfinished or older than the manifest.
        """
        check_finished(self.folder, sample_id, self.records)
        maps = {}
        for task in ("semseg", "depth", "normals", "disparity"):
            path = self._find(task, sample_id)
            if path is None:
                continue
            try:
                values = self._read(task, path)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            if values.shape[-2:] != image.shape[-2:]:
                (rows, columns), (height, width) = values.shape[-2:], image.shape[-2:]
                advice = f"pass --height {rows}" if columns == 2 * rows else "a panorama is twice as wide as high"
                raise InputError(
                    f"{path} is {columns} x {rows} pixels, but panoramas are scored at {width} x {height}: {advice}"
                )
            maps["disparity" if task == "depth" and self.kind == "disparity" else task] = values
        if not maps:
            raise FileNotFoundError(
                f"{self.folder} has no prediction for {sample_id}: looked for depth/{sample_id}.npy (.exr, .png), "
                f"{sample_id}_depth.png, {sample_id}.png and the like"
            )
        return maps

    def _find(self, task: str, sample_id: str) -> Path | None:
        names = [path_below(self.folder / task, sample_id, ending) for ending in ENDINGS]
        stored = reversed([file.suffix for file in MAIN_TASKS[task].stored])  # metres before millimetres
        names += [path_below(self.folder, sample_id, f"_{suffix}") for suffix in stored]
        if task == "depth":
            names += [path_below(self.folder, sample_id, ending) for ending in ENDINGS]
        return next((path for path in names if path.is_file()), None)

    def _read(self, task: str, path: Path) -> Tensor:
        data = read_file(path)
        if task == "semseg":
            return torch.from_numpy(_class_numbers(data, path.suffix))
        if task == "normals":
            normals = _exr_normals(data) if path.suffix == ".exr" else decode_png_or_npy_normals(data)
            return torch.from_numpy(normals).movedim(-1, 0)
        relative = task == "disparity" or self.kind == "disparity"
        values, step = self._distances(data, path, relative)
        if relative:
            # `mtpano run` writes 0 for no value; of another program, it may be the farthest.
            own = path.name.endswith(f"_{MAIN_TASKS['disparity'].stored[0].suffix}")
            known = np.isfinite(values) & ((values > 0) | (not own))
            return torch.from_numpy(np.where(known, values, np.float32(np.nan)) * np.float32(step))
        known = np.isfinite(values) & (values > 0)
        depth = torch.from_numpy(np.where(known, values, 0) * np.float32(step))
        if task == "depth" and self.kind == "z":
            depth = depth / erp_rays(*depth.shape).abs().amax(-1)
        return depth

    def _distances(self, data: bytes, path: Path, relative: bool) -> tuple[NDArray[np.float32], float]:
        if path.suffix == ".npy":
            values = np.squeeze(decode_array(data))
            if values.ndim != 2:
                raise InputError(f"a map of distances is (H, W), not {values.shape}")
            return values.astype(np.float32), self.step or 1.0
        if path.suffix == ".exr":
            first, *others = np.moveaxis(image_io.decode_exr(data), -1, 0)
            if not all(np.array_equal(first, other, equal_nan=True) for other in others):
                raise InputError("its channels differ, but distances have the same value in every channel")
            return np.where(first < NOTHING, first, np.float32(np.nan)), self.step or 1.0
        own = path.name.endswith("_depth.png")
        if self.step is None and not own and not relative:
            raise InputError("a PNG does not state its unit: pass --unit mm, or metres per step")
        steps = stored_steps(data)
        if relative:  # the largest number is the nearest pixel
            return steps.astype(np.float32), 1.0
        return np.where(steps == image_io.SATURATED, 0, steps).astype(np.float32), self.step or 0.001

    def facts(self) -> dict[str, Any]:
        """Return a hash over names, sizes and times of the files, and the stated unit, kind and classes."""
        files = hash_of_files(self.folder, (path for path in self.folder.rglob("*") if path.suffix in ENDINGS))
        stated = {"step": self.step, "kind": self.kind, "classes": list(self.classes)}
        return {"name": self.name, "files": files, **stated}


def _class_numbers(data: bytes, suffix: str) -> NDArray[np.int64]:
    if suffix == ".exr":
        raise InputError("an EXR image holds no class numbers: write a PNG or NPY")
    if suffix == ".png":
        return stored_numbers(data, open_image(data)).astype(np.int64)
    numbers = np.squeeze(decode_array(data))
    if numbers.ndim != 2 or numbers.dtype.kind not in "iu":
        raise InputError(f"a class map must hold whole numbers (H, W), not {numbers.dtype} {numbers.shape}")
    return numbers.astype(np.int64)


def _exr_normals(data: bytes) -> NDArray[np.float32]:
    stored = image_io.decode_exr(data)
    if stored.shape[-1] != 3:
        raise InputError(f"it has {stored.shape[-1]} channels, but normals need three")
    return unit_or_zero(stored)


def _recorded(folder: Path) -> tuple[tuple[str, ...], dict[str, str | None]]:
    """Return the classes and the records of a folder that `mtpano run` wrote; none if it is another one."""
    path = folder / MANIFEST
    known = read_json(path) if path.is_file() else None
    if not isinstance(known, dict) or known.get("format") != FORMAT:  # it is the manifest of something else
        return (), {}
    return classes_and_reading(folder)[0], read_records(folder / RECORDS)
