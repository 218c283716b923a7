"""`predict` runs a network on a panorama from any source; `Prediction` holds, saves and shows the result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mtpano_zoo import image_io, viz
from mtpano_zoo.errors import InputError
from mtpano_zoo.export.mesh import MAX_ANGLE
from mtpano_zoo.export.scene_file import Cut, write_scene
from mtpano_zoo.familiarity import doubts
from mtpano_zoo.finishing import (
    FINISHERS,
    NadirMask,
    check_nadir,
    geometric,
    nadir_angle,
    seam_blended,
    unseen_removed,
    without_nadir,
)
from mtpano_zoo.image_io import Panorama, Reading, Window, placed
from mtpano_zoo.levelling import EDGE_ROWS, estimate_up, levelling_rotation, turned_back
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.outputs import check_precision, check_range, main_outputs, weight_type
from mtpano_zoo.point_cloud import cloud
from mtpano_zoo.sources import Source, network_input, panoramas_of
from mtpano_zoo.tasks import MAIN_TASKS, NO_LABEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ("Prediction", "Source", "check_options", "output_paths", "predict")

SKY = "sky"
SCENES = {"ply": "points.ply", "glb": "mesh.glb"}  # ends of the names of files with three dimensions


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
            panorama and found a clear direction, or if its file says how the camera was tilted.
        heading: Compass heading of the centre of the image, in degrees clockwise from north, if its file says it.
        window: Where the image lies on the sphere, if it is a part of it only.
        doubts: What speaks against trusting the maps, in sentences, see `mtpano_zoo.familiarity`.

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
            for row in self.semseg:  # the labelled pixels of a whole map would be a copy of it
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

        `depth_range` is that of `figure`. `scenes` are keys of `SCENES`: what `export` writes, with its `stride`.
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

        Points are in metres, x right, y down, z forward; meshes in metres too, y up, -z forward, as glTF wants it. By
        default, the smallest stride is taken that leaves at most 512 rows; see `mtpano_zoo.export.scene_file.Cut`.

        Raises:
            FileExistsError: If the file exists and `overwrite` is false.
            InputError: If the name ends in something else, there is no depth or no pixel with a distance, or an option
                is out of range.
        """
        cut = Cut(stride, edge, nadir, max_angle)
        image, depth, normals = self._on_the_sphere()
        return write_scene(path, image, depth, normals, cut, overwrite)


def predict(
    network: nn.Module,
    source: Source | Sequence[Source],
    *,
    size: tuple[int, int] | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    mask_sky: bool = False,
    blend_seam: bool = False,
    max_distance: float | None = None,
    level: bool = False,
    crop: bool = False,
    mask_nadir: NadirMask = 0.0,
    **reading: Unpack[Reading],
) -> Prediction | list[Prediction]:
    """Run a network on a panorama and return its maps in the panorama's own size and in our frame.

    Args:
        network: A module from images (B, 3, h, w) in [0, 1] to a dict of maps by task, with the attributes `tasks` and
            `input_size`, and optionally `classes` and `palette`. It runs on the device of its parameters.
        source: A path, a PIL image, an array (H, W, 3) uint8, or a tensor in [0, 1] of shape (3, H, W) or (B, 3, H, W).
            A batch returns a list. So does a sequence of sources, which go through the network together. Files are
            placed on the sphere by their GPano tags, and levelled if these say how the camera was tilted; what no
            camera has seen has no value in any map.
        size: Height and width of the network's input; its own `input_size` by default.
        precision: `bfloat16` runs the network under autocast; everything after it stays float32. This does not apply
            to a network with a precision of its own: one from `prepare_for_inference`, or one whose weights are not
            float32, as after `network.half()`.
        mask_sky: Remove depth and normal (set to 0) from pixels of the class `sky`, as MTPano's published script does.
        blend_seam: In depth and normals, at the network's own size, replace the two columns on either side of the left
            and right edge by the line between the third ones, as MTPano's published script does. Rows where those have
            no value get none there. Networks with wrapped convolutions do not need this.
        max_distance: Keep depth only where it is below this, in metres, by the mask that the network has for it; one of
            the network's `ranges`, by default the last.
        level: Find where up is, from the straight edges in the image, show the network what a level camera would see,
            and turn its maps back, for cameras that are tilted by up to 45 degrees. Nothing is turned by less than one
            degree, or if up is not clear: `Prediction.up` is None then. See `mtpano_zoo.levelling`. What is found in
            the image counts more than what the tags of a file say.
        crop: Return only the part of the sphere that the file of a crop shows, in the size of the file.
        mask_nadir: Leave out what is less than so many degrees from straight down in the image, where a tripod
            or a logo is. "auto" finds the border of a disc, see `mtpano_zoo.image_io.nadir`, but no tripod.
        **reading: How files are read: `fov`, `vertical_offset`, `eye`, `ignore_tags`, `force` and `max_pixels`, see
            `mtpano_zoo.image_io.load_panorama`.

    Raises:
        FileNotFoundError: If there is no file at the path.
        InputError: If the source is not a panorama, its type, shape or range is wrong, or the network lacks what
            an option needs.

    Example:
        >>> class TwoMetres(nn.Module):
        ...     tasks, input_size = ("depth",), (32, 64)
        ...     def forward(self, image):
        ...         return {"depth": torch.full_like(image[:, :1], 2.0)}
        >>> predict(TwoMetres(), torch.rand(3, 100, 200)).depth.shape
        (100, 200)
    """
    check_options(network, precision, mask_sky, blend_seam, max_distance)
    height, width = size or _attribute(network, "input_size")
    image_io.check_panorama_size(height, width, "the network's input, size=(height, width),")
    _attribute(network, "tasks")  # fails before anything runs
    check_nadir(mask_nadir)
    panoramas = panoramas_of(source, **reading)
    if not panoramas:
        return []
    images = [panorama if isinstance(panorama, Tensor) else panorama.pixels for panorama in panoramas]
    cpu = torch.device("cpu")
    device = next((parameter.device for parameter in network.parameters()), cpu)
    # Restore every module's own mode: frozen layers stay in evaluation mode during training.
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            ups = [_up(panorama, image, level) for panorama, image in zip(panoramas, images, strict=True)]
            turns = [levelling_rotation(up) for up in ups]
            batch = torch.stack(
                [network_input(image, height, width, device, turn) for image, turn in zip(images, turns, strict=True)]
            )
            kind = weight_type(network)
            autocast = precision == "bfloat16" and kind == torch.float32
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                output = main_outputs(network, batch.to(kind), max_distance)
            whole = [isinstance(panorama, Tensor) or panorama.seen is None for panorama in panoramas]
            doubted = doubts(network, batch, whole)
            results = [
                _prediction(
                    network,
                    panorama,
                    {task: maps[i] for task, maps in output.items()},
                    mask_sky,
                    blend_seam,
                    ups[i],
                    turns[i],
                    crop,
                    mask_nadir,
                    doubted[i],
                )
                for i, panorama in enumerate(panoramas)
            ]
    finally:
        for module, mode in modes.items():
            module.training = mode
    single = isinstance(source, str | Path | Image.Image | np.ndarray | Panorama) or (
        isinstance(source, Tensor) and source.ndim < 4
    )
    return results[0] if single else results


def _up(panorama: Panorama | Tensor, image: NDArray[np.uint8] | Tensor, level: bool) -> Tensor | None:
    """Return where up is: by the edges of the image if `level` asks for it, else by the pose in its file."""
    pose, seen = (None, None) if isinstance(panorama, Tensor) else (panorama.pose, panorama.seen)
    found = None
    if level:
        small = network_input(image, EDGE_ROWS, 2 * EDGE_ROWS, torch.device("cpu"))
        found = estimate_up(small, None if seen is None else torch.from_numpy(seen))
    return torch.tensor(pose.up) if found is None and pose is not None else found


def _attribute(network: nn.Module, name: str) -> Any:
    if not hasattr(network, name):
        raise InputError(f"{type(network).__name__} lacks the attribute `{name}`, which a network of this zoo has")
    return getattr(network, name)


def check_options(
    network: nn.Module,
    precision: str = "float32",
    mask_sky: bool = False,
    blend_seam: bool = False,
    max_distance: float | None = None,
) -> None:
    """Refuse options of `predict` that a network does not support.

    Raises:
        InputError: If the precision is unknown or not that of the weights, or the network lacks what an option needs.
    """
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision is float32 or bfloat16, not {precision}")
    if precision == "bfloat16" and getattr(network, "precision", precision) != precision:
        raise InputError("the network was prepared for float32: prepare it for bfloat16")
    check_precision(network, precision)
    check_range(getattr(network, "ranges", ()), max_distance)
    if mask_sky and SKY not in getattr(network, "classes", ()):
        lacking = "the class sky" if "semseg" in _attribute(network, "tasks") else "semseg"
        raise InputError(f"mask_sky needs to know where the sky is, but this network lacks {lacking}: leave it out")
    if blend_seam and not geometric(dict.fromkeys(_attribute(network, "tasks"))):
        raise InputError("blend_seam works on distances and directions; this network predicts neither: leave it out")


def _prediction(
    network: nn.Module,
    panorama: Panorama | Tensor,
    maps: Mapping[str, Tensor],
    mask_sky: bool,
    blend_seam: bool,
    up: Tensor | None,
    turn: Tensor | None,
    crop: bool,
    mask_nadir: NadirMask,
    doubted: tuple[str, ...],
) -> Prediction:
    if isinstance(panorama, Tensor):
        pixels = (panorama.float() * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        panorama = Panorama(pixels.cpu().numpy())
    image, window = panorama.pixels, panorama.window if crop else None
    height, width = image.shape[:2]
    classes = tuple(getattr(network, "classes", ()))
    palette = getattr(network, "palette", None)
    if blend_seam:
        maps = seam_blended(maps, classes.index(SKY) if mask_sky else None)
    if turn is not None:
        maps = {task: turned_back(task, values, turn) for task, values in maps.items()}
    finished = {task: FINISHERS[MAIN_TASKS[task].kind](task, values, height, width) for task, values in maps.items()}
    if "semseg" in finished and len(classes) <= NO_LABEL:
        finished["semseg"] = finished["semseg"].astype(np.uint8)
    if mask_sky:
        for task in geometric(finished):
            finished[task][finished["semseg"] == classes.index(SKY)] = 0
    if "valid" in finished:
        without = ["depth", *(() if getattr(network, "ranges", ()) else ("normals",))]  # what is too far has a normal
        for task in finished.keys() & without:
            finished[task][~finished["valid"]] = 0
    below = nadir_angle(mask_nadir, panorama.pixels)
    if (seen := without_nadir(panorama.seen, height, width, below)) is not None:
        finished = {task: unseen_removed(task, values, seen, len(classes)) for task, values in finished.items()}
    if window is not None:
        image = image[window.slices]
        finished = {task: values[window.slices] for task, values in finished.items()}
    colours = viz.default_palette(len(classes)) if palette is None else np.asarray(palette, np.uint8).reshape(-1, 3)
    direction = None if up is None else tuple(up.tolist())
    heading = None if panorama.pose is None else panorama.pose.heading
    return Prediction(image, finished, classes, colours, direction, heading, window, doubted)


# Write a map to a file, with XMP metadata where its format has them.
WRITERS: dict[str, Callable[[Path, NDArray[Any], NDArray[np.uint8], str], None]] = {
    "palette": image_io.write_palette_png,
    "millimetres": lambda path, depth, _, xmp: image_io.write_png(path, depth, xmp, image_io.encode_depth),
    "float32": lambda path, values, *_: image_io.write_npy(path, values),
    "unit_vectors": lambda path, normals, _, xmp: image_io.write_png(path, normals, xmp, image_io.encode_normals),
}
