"""What all miniatures share: rooms as numpy maps, encoders of releases, trees that become zip files."""

import copy
import functools
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mtpano_zoo.scenes import render, sample_room

HEIGHT, WIDTH = 32, 64


def made_once(make):
    """Let a function of hashable arguments that returns a dictionary work once; every caller gets copies of its own."""
    made = functools.cache(make)

    @functools.wraps(make)
    def copies(*arguments, **named):
        return {name: copy.copy(value) for name, value in made(*arguments, **named).items()}

    return copies


@made_once
def room_maps(number, height=HEIGHT, width=WIDTH):
    """Image uint8 (H, W, 3), semseg (H, W), depth (H, W) and normals (H, W, 3) of a room, in the frame of samples."""
    batch = render([sample_room(0, "test", number)], height, width)
    return {
        "image": (batch["image"][0].permute(1, 2, 0) * 255).round().byte().numpy(),
        "semseg": batch["semseg"][0].numpy().astype(np.uint8),
        "depth": batch["depth"][0].numpy(),
        "normals": batch["normals"][0].permute(1, 2, 0).numpy(),
    }


def random_rgb(dtype=np.uint8, height=16, seed=0):
    """An image (H, 2H, 3) of random numbers."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, 2 * height, 3), dtype)


def png(array, palette=None):
    """Encode as PNG in the type that the array has: grey or RGB(A) of 8 bits, grey of 16, or palette."""
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette([*np.asarray(palette, np.uint8).ravel().tolist(), *[0] * (768 - 3 * len(palette))])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def raw_png(values, colour_type, *others):
    """A 16-bit PNG of an array (H, W, C), written without the libraries that are under test; others are chunks."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = width.to_bytes(4) + height.to_bytes(4) + bytes((16, colour_type, 0, 0, 0))
    return _chunks((b"IHDR", header), *others, (b"IDAT", zlib.compress(rows)))


def claiming(width, height):
    """A PNG of a hundred bytes whose header claims a size: sound by its checksums, but there are no pixels."""
    header = width.to_bytes(4) + height.to_bytes(4) + bytes((8, 2, 0, 0, 0))
    return _chunks((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))))


def _chunks(*chunks):
    packed = (len(d).to_bytes(4) + kind + d + zlib.crc32(kind + d).to_bytes(4) for kind, d in (*chunks, (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def write(root, files):
    """Write files, given by their names, below a folder."""
    for name, data in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    """Write files, given by their names, into a zip file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def damage(path, content):
    """Flip a byte of a file where `content`, some bytes of it, stands: the length stays, checksums do not fit."""
    data = bytearray(Path(path).read_bytes())
    at = data.index(content) + len(content) // 2
    data[at] ^= 0xFF
    Path(path).write_bytes(bytes(data))
