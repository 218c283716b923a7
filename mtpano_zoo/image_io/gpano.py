"""GPano tags: which part of the sphere an image shows, and how the camera was held.

Cameras and stitching programs write them as XMP metadata (Google, "Photo Sphere XMP Metadata",
http://ns.google.com/photos/1.0/panorama/). They say where a crop lies in the full panorama, in pixels, and the heading,
pitch and roll of the camera, in degrees.
"""

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError

__all__ = (
    "GPano",
    "PoseAngles",
    "Window",
    "fits_view",
    "gpano_xmp",
    "placed",
    "pose_of",
    "read_gpano",
    "read_pose",
    "window_of_view",
)

NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"
SIZES = (
    *("FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels"),
    *("CroppedAreaLeftPixels", "CroppedAreaTopPixels"),
)
DEGREES = ("PoseHeadingDegrees", "PosePitchDegrees", "PoseRollDegrees")
SCALE_TOLERANCE = 0.01  # relative, between the width and the height of an image that was scaled after it was tagged
VIEW_TOLERANCE = 0.05  # the same between degrees per pixel across and down: people round fields of view


class Window(NamedTuple):
    """A part of a full panorama, in its pixels.

    Example:
        >>> Window(top=2, left=0, height=4, width=16, full_height=8, full_width=16).slices
        (slice(2, 6, None), slice(0, 16, None))
    """

    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class PoseAngles(NamedTuple):
    """Orientation of a camera in degrees, as in GPano tags, which do not say where the camera is.

    Attributes:
        heading: of the centre of the image, clockwise from north; None if it is unknown.
        pitch: of the centre of the image, above the horizon.
        roll: clockwise rotation of the camera: the horizon turns counter-clockwise in the image.
    """

    heading: float | None
    pitch: float
    roll: float

    @property
    def up(self) -> tuple[float, float, float]:
        """Unit vector that points up, in the frame of the camera: x right, y down, z forward.

        Example:
            >>> [round(x, 3) for x in PoseAngles(None, 30, 0).up]  # the camera looks up, so up is before it
            [0.0, -0.866, 0.5]
        """
        pitch, roll = math.radians(self.pitch), math.radians(self.roll)
        return 0.0 - math.sin(roll) * math.cos(pitch), -math.cos(roll) * math.cos(pitch), math.sin(pitch)


def pose_of(up: tuple[float, float, float] | None, heading: float | None) -> PoseAngles | None:
    """Return the pose of a camera from the up direction in its frame; None if neither this nor the heading is known.

    Example:
        >>> pose_of(PoseAngles(None, 30, -100).up, 90)
        PoseAngles(heading=90, pitch=30.0, roll=-100.0)
    """
    if up is None and heading is None:
        return None
    x, y, z = up or (0.0, -1.0, 0.0)
    pitch, roll = math.asin(max(-1.0, min(1.0, z))), math.atan2(-x, -y)
    return PoseAngles(heading, round(math.degrees(pitch), 4) + 0.0, round(math.degrees(roll), 4) + 0.0)


class GPano(NamedTuple):
    """The GPano tags of an image.

    Attributes:
        window: where it lies in the full panorama; None if it is a full panorama itself.
        pose: None if the tags have no angle.
    """

    window: Window | None
    pose: PoseAngles | None


def read_gpano(xmp: str, height: int, width: int, name: str) -> GPano | None:
    """Return what the GPano tags of an image say; None if it has none.

    Args:
        xmp: the XMP metadata.
        height: rows of the image, which may have been scaled since it was tagged.
        width: columns.
        name: start of error messages.

    Raises:
        InputError: If the tags contradict each other or the image, or the projection is not equirectangular.

    Example:
        >>> tags = {"FullPanoWidthPixels": 400, "FullPanoHeightPixels": 200, "CroppedAreaImageWidthPixels": 200}
        >>> tags |= {"CroppedAreaImageHeightPixels": 50, "CroppedAreaLeftPixels": 100, "CroppedAreaTopPixels": 75}
        >>> read_gpano(" ".join(f'GPano:{tag}="{value}"' for tag, value in tags.items()), 50, 200, "a.jpg").window
        Window(top=75, left=100, height=50, width=200, full_height=200, full_width=400)
    """
    tags = _tags(xmp)
    if not tags:
        return None
    projection = tags.get("ProjectionType", "equirectangular").strip().lower()
    if projection != "equirectangular":
        raise InputError(f"{name} is a panorama in {projection} projection: export it as equirectangular")
    pose = _pose(tags, name)
    window = _window(tags, height, width, name) if all(tag in tags for tag in SIZES) else None
    return GPano(window, pose)


def read_pose(xmp: str, name: str) -> PoseAngles | None:
    """Return what the GPano tags of an image say about its camera, whatever they say about its size.

    Args:
        xmp: the XMP metadata.
        name: start of error messages.

    Raises:
        InputError: If an angle is not valid.

    Example:
        >>> read_pose('GPano:PoseRollDegrees="5" GPano:FullPanoWidthPixels="1"', "a.jpg")
        PoseAngles(heading=None, pitch=0.0, roll=5.0)
    """
    return _pose(_tags(xmp), name)


def _pose(tags: Mapping[str, str], name: str) -> PoseAngles | None:
    degrees = {tag: _number(tags, tag, name) for tag in DEGREES if tag in tags}
    pose = PoseAngles(degrees.get(DEGREES[0]), degrees.get(DEGREES[1], 0.0), degrees.get(DEGREES[2], 0.0))
    if abs(pose.pitch) > 90 or abs(pose.roll) > 360:
        raise _contradiction(name, f"a pitch of {pose.pitch:g} and a roll of {pose.roll:g} degrees are not valid")
    return pose if degrees else None


def _tags(xmp: str) -> dict[str, str]:
    """Return the GPano tags, written as attributes or as elements; no XML parser sees text from strangers."""
    declared = re.search(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(NAMESPACE)}[\"']", xmp)
    prefix = re.escape(declared[1]) if declared else "GPano"
    attributes = re.findall(rf"\b{prefix}:(\w+)\s*=\s*[\"']([^\"']*)[\"']", xmp)
    elements = re.findall(rf"<{prefix}:(\w+)\s*>([^<]*)</{prefix}:", xmp)
    return dict(attributes + elements)


def _contradiction(name: str, what: str) -> InputError:
    return InputError(f"the GPano tags of {name} cannot be right: {what}; correct them, or pass --ignore-tags")


def _number(tags: Mapping[str, str], tag: str, name: str) -> float:
    try:
        value = float(tags[tag])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _contradiction(name, f"{tag} is {tags[tag]!r}, not a number")
    return value


def _window(tags: Mapping[str, str], height: int, width: int, name: str) -> Window | None:
    full_width, full_height, crop_width, crop_height, left, top = (_number(tags, tag, name) for tag in SIZES)
    if min(full_width, full_height, crop_width, crop_height) < 1 or min(left, top) < 0:
        raise _contradiction(
            name, f"a crop of {crop_width:g} x {crop_height:g} pixels at column {left:g} and row {top:g}"
        )
    if left + crop_width > full_width or top + crop_height > full_height:
        raise _contradiction(
            name,
            f"the crop, {crop_width:g} x {crop_height:g} pixels at column {left:g} and row {top:g}, is not inside the "
            f"full panorama of {full_width:g} x {full_height:g}",
        )
    if abs(full_width / (2 * full_height) - 1) > VIEW_TOLERANCE:
        raise _contradiction(
            name, f"the full panorama of {full_width:g} x {full_height:g} is not twice as wide as high"
        )
    across, down = width / crop_width, height / crop_height
    if abs(across / down - 1) > SCALE_TOLERANCE and max(abs(width - crop_width), abs(height - crop_height)) > 1:
        raise _contradiction(
            name, f"they describe {crop_width:g} x {crop_height:g} pixels, but the image has {width} x {height}"
        )
    return _inside(top * down, left * across, height, width, full_height * down, full_width * across)


def _inside(top: float, left: float, height: int, width: int, full_height: float, full_width: float) -> Window | None:
    """Return a window rounded to whole pixels, so that it stays inside the full panorama; None if it is all of it."""
    rows, columns = max(round(full_height), height), max(round(full_width), width)
    if (rows, columns) == (height, width):
        return None
    return Window(min(round(top), rows - height), min(round(left), columns - width), height, width, rows, columns)


def window_of_view(
    fov: tuple[float, float], vertical_offset: float, height: int, width: int, name: str
) -> Window | None:
    """Return where an equirectangular image with a known field of view lies; None if it is a full panorama.

    Its centre looks forward.

    Args:
        fov: degrees across and down that the image covers.
        vertical_offset: degrees by which its middle row is above the horizon.
        height: rows of the image.
        width: columns.
        name: start of error messages.

    Raises:
        InputError: If the angles are impossible on a sphere, or do not fit the size of the image.

    Example:
        >>> window_of_view((360, 90), 0, 100, 400, "a.jpg")
        Window(top=50, left=0, height=100, width=400, full_height=200, full_width=400)
    """
    across, down = _angles(fov, vertical_offset)
    if not fits_view(fov, height, width):
        raise InputError(
            f"{name} has {width / across:.3g} pixels per degree across and {height / down:.3g} down, but in an "
            f"equirectangular image these are the same: choose another field of view than {across:g} x {down:g}"
        )
    full_height, full_width = height * 180 / down, width * 360 / across
    top = (90 - vertical_offset - down / 2) / 180 * full_height
    return _inside(top, (full_width - width) / 2, height, width, full_height, full_width)


def fits_view(fov: tuple[float, float], height: int, width: int) -> bool:
    """Return whether an image has as many pixels per degree across as down, if it covers these degrees.

    Raises:
        InputError: If the angles are impossible on a sphere.

    Example:
        >>> fits_view((360, 90), 100, 400), fits_view((180, 180), 100, 200)
        (True, False)
    """
    across, down = _angles(fov)
    return abs(width / across / (height / down) - 1) <= VIEW_TOLERANCE


def _angles(fov: tuple[float, float], vertical_offset: float = 0.0) -> tuple[float, float]:
    """Return the degrees of a field of view, across and down, if they are possible."""
    angles = tuple(fov) if isinstance(fov, Iterable) else ()
    if len(angles) != 2 or not all(isinstance(angle, Real) for angle in (*angles, vertical_offset)):
        raise InputError(
            f"a field of view is two numbers of degrees, across and down, such as (360, 90), and its offset one; got "
            f"{fov!r} and {vertical_offset!r}"
        )
    across, down = angles
    if not (0 < across <= 360 and 0 < down <= 180 and abs(vertical_offset) + down / 2 <= 90 + 1e-6):
        raise InputError(
            f"a field of view is at most 360 x 180 degrees, and the image must not reach beyond a pole, as "
            f"{across:g} x {down:g} around {vertical_offset:g} does"
        )
    return across, down


def placed(values: NDArray[Any], window: Window, around: int = 0) -> NDArray[Any]:
    """Return a full panorama (H, W, ...) with values inside a window and one number, by default zero, around it.

    Example:
        >>> placed(np.ones((1, 2)), Window(1, 1, 1, 2, 2, 4)).tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    full = np.full((window.full_height, window.full_width, *values.shape[2:]), around, values.dtype)
    full[window.slices] = values
    return full


def gpano_xmp(height: int, width: int, window: Window | None, pose: PoseAngles | None) -> str:
    """Return XMP metadata that says where an image of height x width pixels lies, and how its camera was held.

    Example:
        >>> 'GPano:PoseHeadingDegrees="90"' in gpano_xmp(512, 1024, None, PoseAngles(90, 0, 0))
        True
    """
    view = window or Window(0, 0, height, width, height, width)
    numbers = (view.full_width, view.full_height, view.width, view.height, view.left, view.top)
    tags: dict[str, Any] = {"ProjectionType": "equirectangular", **dict(zip(SIZES, numbers, strict=True))}
    if pose is not None:
        tags |= {tag: f"{angle:g}" for tag, angle in zip(DEGREES, pose, strict=True) if angle is not None}
    attributes = " ".join(f'GPano:{tag}="{value}"' for tag, value in tags.items())
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="{NAMESPACE}" {attributes}/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    )
