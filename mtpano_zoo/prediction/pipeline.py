"""`predict` runs a network on a panorama from any source and returns a `Prediction`, or one for each."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mtpano_zoo import image_io, viz
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Panorama, Reading
from mtpano_zoo.outputs import check_precision, check_range, main_outputs, weight_type
from mtpano_zoo.prediction.attitude import Attitude, level_input
from mtpano_zoo.prediction.familiarity import doubts
from mtpano_zoo.prediction.finishing import (
    FINISHERS,
    NadirMask,
    check_nadir,
    geometric,
    nadir_angle,
    seam_blended,
    unseen_removed,
    without_nadir,
)
from mtpano_zoo.prediction.levelling import turned_back
from mtpano_zoo.prediction.maps import Prediction
from mtpano_zoo.prediction.sources import Source, panoramas_of
from mtpano_zoo.tasks import MAIN_TASKS, NO_LABEL

__all__ = ("SKY", "check_options", "predict")

SKY = "sky"


def predict(
    network: nn.Module,
    source: Source | Sequence[Source],
    *,
    size: tuple[int, int] | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    mask_sky: bool = False,
    blend_seam: bool = False,
    max_distance: float | None = None,
    level: bool | None = None,
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
            placed on the sphere by their GPano tags, and levelled if these say how the camera was tilted; areas that
            no camera has seen have no value in any map.
        size: Height and width of the network's input; its own `input_size` by default.
        precision: `bfloat16` runs the network under autocast; everything after it stays float32. This does not apply
            to a network with a precision of its own: one from `prepare_for_inference`, or one whose weights are not
            float32, as after `network.half()`.
        mask_sky: Remove depth and normal (set to 0) from pixels of the class `sky`, as MTPano's published script does.
        blend_seam: In depth and normals, at the network's own size, replace the two columns on either side of the left
            and right edge by linear interpolation between the third ones, as MTPano's published script does. In rows
            where those have no value, the replaced ones have none either. Networks with wrapped convolutions do not
            need this.
        max_distance: Keep depth only below this distance in metres, by the mask that the network predicts for it. It
            must be one of the network's `ranges`; the last by default.
        level: Find the up direction from the straight edges in the image, show the network what a level camera would
            see, and rotate its maps back. This works for tilts of up to 45 degrees; tilts below two degrees are left
            alone. If the edges show no clear direction, the tags of the file decide; without these, nothing is
            rotated, and `Prediction.up` is None. See `mtpano_zoo.prediction.levelling`. By default, a network with an
            `up_head` does so for whole panoramas in which it sees a tilt of more than eight degrees, unless their tags
            state one. A panorama is whole if it is no crop and at most a twentieth of the sphere is unseen. If the
            edges show nothing, or would not make the panorama upright in the eyes of the network, its own estimate
            counts. False leaves everything to the tags.
        crop: For a crop, return only the part of the sphere that its file shows, at the size of the file.
        mask_nadir: Angle from straight down in degrees within which the maps have no value, to leave out a tripod or a
            logo. "auto" finds the border of a disc, see `mtpano_zoo.image_io.nadir`, but not a tripod.
        **reading: How files are read: `fov`, `vertical_offset`, `eye`, `ignore_tags`, `force` and `max_pixels`, see
            `mtpano_zoo.image_io.load_panorama`. For other sources, the first four are refused.

    Raises:
        FileNotFoundError: If there is no file at the path.
        InputError: If the source is not a panorama, its type, shape or range is wrong, or the network lacks what
            an option needs.
        TypeError: If there is no such option.

    Example:
        >>> class TwoMetres(nn.Module):
        ...     tasks, input_size = ("depth",), (32, 64)
        ...     def forward(self, image):
        ...         return {"depth": torch.full_like(image[:, :1], 2.0)}
        >>> predict(TwoMetres(), torch.rand(3, 100, 200)).depth.shape
        (100, 200)
    """
    if unknown := sorted(reading.keys() - Reading.__annotations__.keys()):  # only files would notice
        raise TypeError(f"predict() got an unexpected keyword argument {unknown[0]!r}")
    check_options(network, precision, mask_sky, blend_seam, max_distance)
    height, width = _input_size(network, size)
    _attribute(network, "tasks")  # fails before anything runs
    check_nadir(mask_nadir)
    panoramas = panoramas_of(source, **reading)
    if not panoramas:
        return []
    with _evaluating(network), torch.inference_mode():
        shown = level_input(network, panoramas, (height, width), level)
        device = shown.batch.device
        kind = weight_type(network)
        autocast = precision == "bfloat16" and kind == torch.float32
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = main_outputs(network, shown.batch.to(kind), max_distance)
        doubted = doubts(network, shown.levels, shown.whole)
        results = [
            _prediction(
                network,
                panorama,
                {task: maps[i] for task, maps in output.items()},
                mask_sky=mask_sky,
                blend_seam=blend_seam,
                attitude=shown.attitudes[i],
                crop=crop,
                mask_nadir=mask_nadir,
                doubted=doubted[i],
            )
            for i, panorama in enumerate(panoramas)
        ]
    single = isinstance(source, str | Path | Image.Image | np.ndarray | Panorama) or (
        isinstance(source, Tensor) and source.ndim < 4
    )
    return results[0] if single else results


def _input_size(network: nn.Module, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of the network's input; its own by default."""
    wanted = _attribute(network, "input_size") if size is None else size
    try:
        height, width = map(operator.index, wanted)
    except (TypeError, ValueError) as error:
        raise InputError(f"size is height and width in pixels, such as (512, 1024), not {wanted!r}") from error
    image_io.check_panorama_size(height, width, "the network's input, size=(height, width),")
    return height, width


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Set the network to evaluation mode, and restore every module's own mode: frozen layers keep it in training."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


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
    *,
    mask_sky: bool,
    blend_seam: bool,
    attitude: Attitude,
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
    masked: tuple[str, ...] = ()  # tasks without a value where `valid` says no
    if "valid" in maps:
        masked = ("depth", *(() if getattr(network, "ranges", ()) else ("normals",)))  # what is too far has a normal
    if blend_seam:
        maps = seam_blended(maps, classes.index(SKY) if mask_sky else None, masked)
    if attitude.turn is not None:
        maps = {task: turned_back(task, values, attitude.turn) for task, values in maps.items()}
    finished = {task: FINISHERS[MAIN_TASKS[task].kind](task, values, height, width) for task, values in maps.items()}
    if "semseg" in finished and len(classes) <= NO_LABEL:
        finished["semseg"] = finished["semseg"].astype(np.uint8)
    if mask_sky:
        for task in geometric(finished):
            finished[task][finished["semseg"] == classes.index(SKY)] = 0
    for task in finished.keys() & masked:
        finished[task][~finished["valid"]] = 0
    below = nadir_angle(mask_nadir, panorama.pixels, panorama.seen)
    if (seen := without_nadir(panorama.seen, height, width, below)) is not None:
        finished = {task: unseen_removed(task, values, seen, len(classes)) for task, values in finished.items()}
    if window is not None:
        image = image[window.slices]
        finished = {task: values[window.slices] for task, values in finished.items()}
    colours = viz.default_palette(len(classes)) if palette is None else np.asarray(palette, np.uint8).reshape(-1, 3)
    direction = None if attitude.up is None else tuple(attitude.up.tolist())
    heading = None if panorama.pose is None else panorama.pose.heading
    return Prediction(image, finished, classes, colours, direction, heading, window, doubted)
