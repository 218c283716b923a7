"""`Prediction` holds, saves and shows the maps of one panorama."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo import image_io, viz
from mtpano_zoo.errors import InputError
from mtpano_zoo.export.mesh import MAX_ANGLE
from mtpano_zoo.export.scene_file import Cut, write_scene
from mtpano_zoo.image_io import Window, placed
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.point_cloud import cloud
from mtpano_zoo.tasks import MAIN_TASKS, NO_LABEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ("SCENES", "WRITERS", "Prediction", "output_paths")

SCENES = {"ply": "points.ply", "glb": "mesh.glb"}  # file name endings of 3D files


def output_paths(
    folder: str | Path, stem: str, tasks: Sequence[str], panel: bool = True, scenes: Sequence[str] = ()
) -> dict[str, Path]:
    """Return the files that `Prediction.save` writes for these tasks, by content, in the order of writing.

    `scenes` are keys of `SCENES`.

    Raises:
        InputError: If the stem cannot name a file below the folder, see `mtpano_zoo.output_paths.check_id`.

    Example:
        >>> {kind: path.as_posix() for kind, path in output_paths("out", "room", ["normals"]).items()}
        {'normals': 'out/room_normals.png', 'panel': 'out/room_panel.png'}
    """
    names = {file.name: file.suffix for task in tasks for file in MAIN_TASKS[task].stored}
    if panel:
        names["panel"] = "panel.png"
    names |= {kind: SCENES[kind] for kind in scenes}
    return {kind: path_below(folder, stem, f"_{name}") for kind, name in names.items()}


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The maps of one panorama, all in the size of its image.

    Every task is an attribute, such as `prediction.depth`. It is None if the network lacks the task.

    - `semseg`: class index (H, W); 255 = no label.
    - `depth`: distance along the ray in metres (H, W) float32; 0 = no value, and where `valid` is false.
    - `normals`: unit vectors (H, W, 3) float32, x right, y down, z forward, towards the camera; zero = no value, and
      where `valid` is false, unless the network has `ranges`: what is only too far has a normal.
    - `valid`: whether the distance is defined and within the range of the network (H, W) bool.
    - `disparity`: inverse distance up to an unknown scale and shift (H, W) float32; 0 = no value.

    Args:
        image: RGB (H, W, 3) uint8.
        maps: The maps by task.
        classes: Class names.
        palette: Class colours (N, 3) uint8.
        up: Unit vector (x, y, z) that points up, in the frame of the camera, if `predict` was asked to level the
            panorama and found a clear direction, if the network noticed a tilt, or if its file says how the camera was
            tilted.
        heading: Compass heading of the image centre, in degrees clockwise from north, if its file states it.
        window: Where the image lies on the sphere, if it covers only part of it.
        doubts: Reasons not to trust the maps, as sentences, see `mtpano_zoo.prediction.familiarity`.

    Raises:
        InputError: If a map differs from the image in size, or a class index has no name.

    Example:
        >>> image, depth = np.zeros((32, 64, 3), np.uint8), np.full((32, 64), 2.0, np.float32)
        >>> prediction = Prediction(image, {"depth": depth}, (), np.zeros((0, 3), np.uint8))
        >>> prediction
        Prediction(64 x 32: depth)
        >>> prediction.normals is None
        True
        >>> points, colours = prediction.point_cloud()
        >>> points.shape
        (2048, 3)
    """

    image: NDArray[np.uint8]
    maps: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    up: tuple[float, float, float] | None = None
    heading: float | None = None
    window: Window | None = None
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        if unknown := sorted(self.maps.keys() - MAIN_TASKS.keys()):
            raise InputError(f"there is no task {unknown[0]}: a prediction holds {', '.join(MAIN_TASKS)}")
        for task, values in self.maps.items():
            shape = (*size, 3) if MAIN_TASKS[task].kind == "direction" else size
            if values.shape != shape:
                raise InputError(f"{task} has shape {values.shape}, but the image needs {shape}")
        if len(self.palette) != len(self.classes):
            raise InputError(f"{len(self.classes)} classes need as many colours, not {len(self.palette)}")
        if self.semseg is not None:
            labels: list[int] = []
            for row in self.semseg:  # row by row, because selecting from the whole map would copy it
                labelled = row[row != NO_LABEL] if len(self.classes) <= NO_LABEL else row
                labels += [int(labelled.min()), int(labelled.max())] if labelled.size else []
            low, high = min(labels, default=0), max(labels, default=-1)
            if low < 0 or high >= len(self.classes):
                raise InputError(
                    f"semseg holds classes {low} to {high}, but there are {len(self.classes)} classes, counted from 0, "
                    f"and {NO_LABEL} for no label"
                )

    def __getattr__(self, name: str) -> Any:
        if name not in MAIN_TASKS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.__dict__["maps"].get(name)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Prediction({width} x {height}: {', '.join(self.tasks) or 'no task'})"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of this prediction, in standard order."""
        return tuple(task for task in MAIN_TASKS if task in self.maps)

    def save(
        self, folder: str | Path, stem: str = "panorama", overwrite: bool = False, panel: bool = True
    ) -> dict[str, Path]:
        """Write every map, and a panel of them all, as `folder/stem_*`; return the paths by content.

        Classes become a palette PNG; depth a 16-bit PNG in millimetres (0 = no value, saturating at 65.535 m) and a
        float32 NPY in metres; normals an 8-bit PNG, `128 + 127 n`; disparity, which has no unit, a float32 NPY. Folders
        are created as needed, including those that `stem` names. `panel=False` draws none and, with `overwrite`,
        removes an older panel, which would show other maps. PNG maps of a crop, or of a camera whose pose is known,
        carry GPano tags.

        Raises:
            FileExistsError: If one of the files exists and `overwrite` is false; nothing is written then.
            NotADirectoryError: If the folder is a file.
            InputError: If `stem` cannot name a file below the folder.
        """
        for _ in self.save_each(folder, stem, overwrite, panel):
            pass
        return output_paths(folder, stem, self.tasks, panel)

    def save_each(
        self,
        folder: str | Path,
        stem: str = "panorama",
        overwrite: bool = False,
        panel: bool = True,
        depth_range: tuple[float, float] | None = None,
        scenes: Sequence[str] = (),
        stride: int | None = None,
    ) -> Iterator[Path]:
        """Do the work of `save` file by file, and yield the path of each when it is complete.

        `depth_range` is as in `figure`. `scenes`, keys of `SCENES`, are written by `export` with `stride`.
        """
        paths = output_paths(folder, stem, self.tasks, panel, scenes)
        parent = path_below(folder, stem).parent
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file, not a folder to write into")
        existing = [path for path in paths.values() if path.exists()]
        if existing and not overwrite:
            raise FileExistsError(f"{existing[0]} already exists: choose another folder, or overwrite it")
        parent.mkdir(parents=True, exist_ok=True)
        for task in self.tasks:
            for file in MAIN_TASKS[task].stored:
                WRITERS[file.codec](paths[file.name], self.maps[task], self.palette, self._gpano())
                yield paths[file.name]
        if panel:
            image_io.write_png(paths["panel"], viz.figure_to_array(self.figure(depth_range)))
            yield paths["panel"]
        for kind in scenes:
            yield self.export(paths[kind], stride=stride, overwrite=True)
        if overwrite:  # an old panel or mesh would show the maps that were just replaced
            for kind, path in output_paths(folder, stem, (), True, tuple(SCENES)).items():
                if kind not in paths:
                    path.unlink(missing_ok=True)

    def _gpano(self) -> str:
        """Return the GPano tags of the maps; empty for a full panorama of which nothing else is known."""
        pose = image_io.pose_of(self.up, self.heading)
        known = self.window is not None or pose is not None
        height, width = self.image.shape[:2]
        return image_io.gpano_xmp(height, width, self.window, pose) if known else ""

    def figure(self, depth_range: tuple[float, float] | None = None) -> "Figure":
        """Draw image and maps, 1600 px wide, with class legend, metre scale and a legend of the normals' colours.

        Colours of depth span its own range, or `depth_range` in metres: set one for the frames of a video.
        """
        return viz.prediction_panel(self.image, self.maps, self.classes, self.palette, depth_range)

    def point_cloud(
        self, stride: int = 1, edge: float | None = None, nadir: float = 0.0
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return points (N, 3) in metres, x right, y down, z forward, camera at 0, and their colours (N, 3).

        Only every `stride`-th row and column is used. Pixels without a depth are left out; `edge` and `nadir` leave out
        more, see `mtpano_zoo.point_cloud.clean_points`.

        Raises:
            InputError: If there is no depth, the stride is not positive, or edge or nadir is out of range.
        """
        if self.depth is None:
            raise InputError("a point cloud needs depth, which this network does not predict")
        image, depth, normals = self._on_the_sphere()
        points = cloud(image, depth, normals, stride, edge, nadir)
        return points.points, points.colours

    def _on_the_sphere(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]:
        """Return image, depth and normals of the whole sphere: zeros where a crop shows nothing."""
        maps = (self.image, self.depth, self.normals)
        if self.window is None:
            return maps
        image, depth, normals = (None if x is None else placed(x, self.window) for x in maps)
        return cast("NDArray[np.uint8]", image), cast("NDArray[np.float32]", depth), normals

    def export(
        self,
        path: str | Path,
        *,
        stride: int | None = None,
        edge: float | None = None,
        nadir: float = 0.0,
        max_angle: float = MAX_ANGLE,
        overwrite: bool = False,
    ) -> Path:
        """Write the scene as `room.ply`, points with colours and normals, or `room.glb`, a textured mesh.

        Points are in metres, x right, y down, z forward; meshes in metres too, y up, -z forward, as glTF requires. By
        default, the stride is the smallest that leaves at most 512 rows; see `mtpano_zoo.export.scene_file.Cut`.

        Raises:
            FileExistsError: If the file exists and `overwrite` is false.
            InputError: If the name ends in something else, there is no depth or no pixel with a distance, or an option
                is out of range.
        """
        cut = Cut(stride, edge, nadir, max_angle)
        image, depth, normals = self._on_the_sphere()
        return write_scene(path, image, depth, normals, cut, overwrite)


# Write a map to a file, with XMP metadata if the format supports it.
WRITERS: dict[str, Callable[[Path, NDArray[Any], NDArray[np.uint8], str], None]] = {
    "palette": image_io.write_palette_png,
    "millimetres": lambda path, depth, _, xmp: image_io.write_png(path, depth, xmp, image_io.encode_depth),
    "float32": lambda path, values, *_: image_io.write_npy(path, values),
    "unit_vectors": lambda path, normals, _, xmp: image_io.write_png(path, normals, xmp, image_io.encode_normals),
}
