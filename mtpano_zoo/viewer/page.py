"""Turn a panorama, its maps and its scene into one HTML file that needs no other file and no network."""

import base64
import json
import math
import zlib
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo import viz
from mtpano_zoo.errors import InputError
from mtpano_zoo.export.mesh import Mesh, sphere_mesh
from mtpano_zoo.image_io import encode_jpeg, encode_normals, placed, write_bytes
from mtpano_zoo.output_paths import printable
from mtpano_zoo.prediction import Prediction
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("TRIANGLES", "check_page", "mesh_stride", "packed", "page", "write_page")

SCRIPTS = ("three.min.js", "geometry.js", "drawing.js", "viewer.js")
TRIANGLES = 300_000  # of the mesh: more make a page slow on a phone
MAP_ROWS = 1024
IMAGE_COLUMNS = 4096
QUALITY = 88  # of the JPEG
STEPS = 65534  # steps of a distance in 16 bits; 0 is no value


def write_page(path: Path, prediction: Prediction, title: str, overwrite: bool = False) -> None:
    """Write the page of a prediction, see `page`.

    Raises:
        FileExistsError: If the file exists and `overwrite` is false.
        InputError: If its name does not end in ``.html``.
        OSError: If it cannot be written.
    """
    check_page(path, overwrite)
    write_bytes(path, page(prediction, title).encode())


def check_page(path: Path, overwrite: bool = False) -> None:
    """Refuse what `write_page` would refuse."""
    if path.suffix.lower() != ".html":
        raise InputError(f"{path} must end in .html: choose such a name for the page")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} already exists: choose another name, or replace it with --overwrite")


def page(prediction: Prediction, title: str) -> str:
    """Return the page: the panorama, its maps, and the scene as a textured mesh.

    Maps of more than 1024 rows are subsampled, and so is the mesh if it would have more than 300,000 triangles.
    Distances are exact to 0.01 % if the farthest is a thousand times the nearest. Without any distance there is no
    scene, and the page says so.
    """
    title = printable(title)
    app = files("mtpano_zoo.viewer") / "app"
    text = (app / "page.html").read_text(encoding="utf-8")
    # "<" must not appear in a script: a class could be named "</script>".
    scene = json.dumps(_scene(prediction, title)).replace("<", "\\u003c")
    licence = (app / "three.LICENSE").read_text(encoding="utf-8")
    parts = {"TITLE": escape(title), "SCENE": scene, "LICENCE": escape(licence)}
    parts |= {name: (app / name).read_text(encoding="utf-8") for name in ("page.css", *SCRIPTS)}
    pieces = text.split("@@")  # names stand between pairs of marks
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def mesh_stride(height: int, width: int) -> int:
    """Return the smallest stride that leaves at most `TRIANGLES`.

    Example:
        >>> mesh_stride(256, 512), mesh_stride(1024, 2048)
        (1, 4)
    """
    return max(1, math.ceil(math.sqrt(2 * height * width / TRIANGLES)))


def packed(values: NDArray[Any]) -> str:
    """Encode unsigned integers (..., W) of 8, 16 or 32 bits as the page reads them.

    Rows become differences between neighbours, these become planes of bytes, the lowest first, which zlib compresses.

    Example:
        >>> zlib.decompress(base64.b64decode(packed(np.array([[1, 3, 2]], np.uint16)))).hex()
        '0102ff0000ff'
    """
    steps = np.diff(values, axis=-1, prepend=np.zeros((*values.shape[:-1], 1), values.dtype))
    size = values.dtype.itemsize
    planes = np.ascontiguousarray(steps, f"<u{size}").reshape(-1).view(np.uint8).reshape(-1, size).T
    return base64.b64encode(zlib.compress(planes.tobytes())).decode()


def _scene(prediction: Prediction, title: str) -> dict[str, Any]:
    """Return what the scripts of the page read."""
    image, maps = _whole(prediction)
    height, width = image.shape[:2]
    stride = max(1, math.ceil(height / MAP_ROWS))
    taken = (slice(stride // 2, None, stride),) * 2
    scene: dict[str, Any] = {"title": title, "size": [width, height], "stride": stride, "image": _jpeg(image)}
    scene |= {"maps": {}, "notes": [], "mesh": None, "up": prediction.up or (0.0, -1.0, 0.0)}
    if "semseg" in maps:
        scene["maps"]["semseg"] = packed(maps["semseg"][taken].astype(np.uint16))
        scene |= {"classes": prediction.classes, "palette": prediction.palette.tolist()}
        scene["none"] = NO_LABEL if len(prediction.classes) <= NO_LABEL else len(prediction.classes)
    if "normals" in maps:
        scene["maps"]["normals"] = packed(encode_normals(maps["normals"][taken]).transpose(2, 0, 1))
    if "depth" in maps:
        depth = np.where(np.isfinite(maps["depth"]) & (maps["depth"] > 0), maps["depth"], np.float32(0))
        scene |= _distances(depth[taken], scene["maps"])
        scene["mesh"], note = _mesh(depth)
        scene["notes"] += [note] if note else []
    else:
        scene["notes"] += ["there is no map of distances, so there is no scene and nothing to measure"]
    return scene


def _whole(prediction: Prediction) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Return image and maps on the whole sphere."""
    window = prediction.window
    if window is None:
        return prediction.image, dict(prediction.maps)
    maps = prediction.maps.items()
    return placed(prediction.image, window), {
        task: placed(values, window, NO_LABEL if task == "semseg" else 0) for task, values in maps
    }


def _distances(depth: NDArray[np.float32], maps: dict[str, str]) -> dict[str, Any]:
    """Add the distances to the maps, in steps of the logarithm, and return how to read and colour them."""
    known = depth > 0
    near, far = (float(depth[known].min()), float(depth[known].max())) if known.any() else (1.0, 1.0)
    span = math.log(far / near)
    steps = np.log(np.where(known, depth, near).astype(np.float64) / near) / (span or 1.0) * STEPS
    maps["depth"] = packed(np.where(known, 1 + np.rint(steps), 0).astype(np.uint16))
    ramp = viz.colour_depth(np.linspace(1, 2, 256)[None], 1, 2)[0]
    return {"range": [near, far], "shown": viz.depth_range(depth), "ramp": ramp.tolist()}


def _mesh(depth: NDArray[np.float32]) -> tuple[dict[str, Any] | None, str]:
    """Return the mesh as the page reads it, and a sentence about it."""
    if not depth.any():
        return None, "there is no scene, because no pixel has a distance"
    stride = mesh_stride(*depth.shape)
    try:
        mesh: Mesh = sphere_mesh(depth, stride)
    except InputError:
        return None, "there is no scene, because too few neighbouring pixels have a distance"
    arrays = {"positions": mesh.positions.T, "coordinates": mesh.coordinates.T}
    numbers = {name: np.ascontiguousarray(values).view(np.uint32) for name, values in arrays.items()}
    numbers["triangles"] = mesh.triangles.reshape(1, -1)
    content = {name: {"width": values.shape[1], "data": packed(values)} for name, values in numbers.items()}
    words = f"the scene has one row and column in {stride}, {len(mesh.triangles):,} triangles"
    return content, words if stride > 1 else ""


def _jpeg(image: NDArray[np.uint8]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, IMAGE_COLUMNS, QUALITY)).decode()
