"""The image formats that are read, and what files of other formats are."""

import io
import re
import warnings

from PIL import TiffImagePlugin

__all__ = (
    "FORMATS",
    "IMAGE_SUFFIXES",
    "is_exr",
    "is_float_tiff",
    "is_hdr",
    "is_heic",
    "is_video",
    "jpeg2000_bits",
    "kind_of_other_file",
    "tiff_tags",
    "tiff_xmp",
)

# The suffixes that a folder is searched for. A file that is named itself is read whatever its suffix.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".insp", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".avif", ".jp2", ".j2k", ".heic", ".heif", ".hif", ".hdr", ".exr"),
)

# Pillow reads more, but EPS starts Ghostscript and some scientific formats unpack anything.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "DIB", "MPO", "HEIF")

# What the first bytes of a file mean, and what to do about it.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document: export the panorama as JPEG or PNG"),
    (b"8BPS", "a Photoshop document: export it as PNG or TIFF"),
    (b"\xff\x0a", "a JPEG XL image, which is not supported: convert it to JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not supported: convert it to JPEG or PNG"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"<svg", "an SVG drawing: export it as PNG"),
    (b"<Error", "an error message of a server (XML): download the image again"),
)
_POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_CANON_RAW = b"ftypcrx "  # of CR3, in the container of MP4
_FLOATING = 3  # value of the TIFF tag SampleFormat


def kind_of_other_file(data: bytes) -> str | None:
    """Return what kind of file cannot be read as an image, and what to do; None if the kind is not known.

    Args:
        data: Content of the file.

    Example:
        >>> kind_of_other_file(b"<!DOCTYPE html><title>404</title>")
        'a web page (HTML), as servers send for an error: download the image again'
    """
    if not data.strip(b"\0"):
        return f"{'full of zeros' if data else 'an empty file'}: copy or download it again"
    if data.startswith(_POINTERS):
        return "a Git LFS pointer, which stands for the image: run `git lfs pull` to fetch it"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if b"annex/objects/" in start[:300]:
        return "a git-annex pointer, which stands for the image: run `git annex get` to fetch it"
    if re.match(rb"<(!doctype html|html|head|body)", start.lower()):
        return "a web page (HTML), as servers send for an error: download the image again"
    start = re.sub(rb"^<\?xml[^>]*\?>\s*", b"", start)
    for signature, sentence in _SIGNATURES:
        if start.startswith(signature):
            return sentence
    if data[4:12] == _CANON_RAW:
        return "a raw image: develop it first, and export it as JPEG or PNG"
    return "a video: name it in `mtpano run`, or extract its frames first" if is_video(data) else None


def is_video(data: bytes) -> bool:
    r"""Return whether these are the first bytes of a video: MP4, QuickTime, Matroska, WebM or AVI.

    Example:
        >>> is_video(b"\0\0\0\x18ftypmp42"), is_video(b"RIFF\0\0\0\0WEBP")
        (True, False)
    """
    if data.startswith(b"\x1aE\xdf\xa3") or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return True
    if data[4:8] in (b"moov", b"mdat", b"wide"):  # old QuickTime
        return True
    if data[4:12] == _CANON_RAW:
        return False
    return data[4:8] == b"ftyp" and not is_heic(data) and data[8:12] not in (b"avif", b"avis")


def is_heic(data: bytes) -> bool:
    r"""Return whether this is an image in a HEIC or HEIF container, which needs an extra package.

    Example:
        >>> is_heic(b"\0\0\0\x18ftypheic")
        True
    """
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def is_hdr(data: bytes) -> bool:
    """Return whether this is a Radiance HDR image.

    Example:
        >>> is_hdr(b"#?RADIANCE"), is_hdr(b"GIF89a")
        (True, False)
    """
    return data.startswith((b"#?RADIANCE", b"#?RGBE"))


def is_exr(data: bytes) -> bool:
    r"""Return whether this is an OpenEXR image.

    Example:
        >>> is_exr(b"\x76\x2f\x31\x01"), is_exr(b"GIF89a")
        (True, False)
    """
    return data.startswith(b"\x76\x2f\x31\x01")


def jpeg2000_bits(data: bytes) -> tuple[int, ...]:
    """Return the bits per channel of a JPEG 2000 image, which its codestream states in the segment SIZ."""
    start = data.index(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(data[start + 40 : start + 42])
    return tuple((size & 127) + 1 for size in data[start + 42 : start + 42 + 3 * channels : 3])


def is_float_tiff(data: bytes) -> bool:
    """Return whether this is a TIFF image of floating-point numbers."""
    if not data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return False
    return _FLOATING in tiff_tags(data).get(339, ())


def tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return width (256), height (257), bits (258) and sample format (339) of a TIFF file's first image, if present.

    Pillow refuses floating-point colours before it reports their size.
    """
    directory = _first_directory(data)
    found = {tag: directory.get(tag) for tag in (256, 257, 258, 339)}
    return {tag: value if isinstance(value, tuple) else (value,) for tag, value in found.items() if value is not None}


def tiff_xmp(data: bytes) -> str:
    """Return the XMP metadata of the first image of a TIFF file, whose tag may be text, bytes or numbers."""
    stored = _first_directory(data).get(700, ())
    parts = stored if isinstance(stored, tuple) else (stored,)
    whole = (one.encode() if isinstance(one, str) else one for one in parts)
    return b"".join(one if isinstance(one, bytes) else bytes((one,)) for one in whole).decode("utf-8", "replace")


def _first_directory(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    file = io.BytesIO(data)
    big = data[2:3] == b"+" or data[3:4] == b"+"
    directory: TiffImagePlugin.ImageFileDirectory_v2 = TiffImagePlugin.ImageFileDirectory_v2(
        file.read(16 if big else 8)
    )
    file.seek(directory.next)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about truncated files: the error is raised later
        directory.load(file)
    return directory
