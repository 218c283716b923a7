"""A textured mesh as one binary glTF 2.0 file, which browsers, Blender and game engines open.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.export.mesh import Mesh
from mtpano_zoo.image_io import encode_jpeg, write_bytes

__all__ = ("write_glb",)

QUALITY = 92  # of the JPEG
MAX_TEXTURE = 8192  # pixels; wider images are refused by many graphics cards
MAX_BYTES = 2**32 - 1  # lengths have 32 bits

FLOAT, UNSIGNED_INT = 5126, 5125
VERTICES, INDICES = 34962, 34963  # what the graphics card uses a part of the buffer for
LINEAR, LINEAR_MIPMAP_LINEAR, REPEAT, CLAMP_TO_EDGE = 9729, 9987, 10497, 33071


def write_glb(path: str | Path, mesh: Mesh, image: NDArray[np.uint8]) -> None:
    """Write a mesh with its panorama (H, W, 3) as the texture, atomically.

    glTF is right-handed with y up, in metres; -z is forward, as for its cameras. A point (x, y, z) of ours becomes
    (x, -y, -z), which is a rotation. The texture is a JPEG of at most 8192 columns. It is shown unlit, because a
    photograph already contains its light. Faces are visible only from the side of the camera, so that one can look into
    a room from outside.

    Raises:
        InputError: If the file would be larger than 4.3 GB.
        OSError: If the file cannot be written.
    """
    turned = mesh.positions * np.array([1, -1, -1], np.float32)
    texture = encode_jpeg(image, MAX_TEXTURE, QUALITY)
    parts = [turned.tobytes(), mesh.coordinates.tobytes(), mesh.triangles.tobytes(), texture]
    targets: list[int | None] = [VERTICES, VERTICES, INDICES, None]
    views: list[dict[str, Any]] = []
    buffer = bytearray()
    for part, target in zip(parts, targets, strict=True):
        views.append({"buffer": 0, "byteOffset": len(buffer), "byteLength": len(part)})
        views[-1] |= {} if target is None else {"target": target}
        buffer += part + bytes(-len(part) % 4)
    bounds = {"min": turned.min(0).tolist(), "max": turned.max(0).tolist()}
    accessors = [
        {"bufferView": 0, "componentType": FLOAT, "count": len(turned), "type": "VEC3", **bounds},
        {"bufferView": 1, "componentType": FLOAT, "count": len(turned), "type": "VEC2"},
        {"bufferView": 2, "componentType": UNSIGNED_INT, "count": mesh.triangles.size, "type": "SCALAR"},
    ]
    described = _scene() | {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(buffer)}]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(buffer)
    if total > MAX_BYTES:
        raise InputError(f"{path} would have {total / 1e9:.1f} GB, but GLB allows at most 4.3 GB: use a larger stride")
    head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    write_bytes(path, head + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer)


def _scene() -> dict[str, Any]:
    """Return the parts of the description that do not depend on the mesh."""
    unlit = "KHR_materials_unlit"
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
    return {
        "asset": {"version": "2.0", "generator": "mtpano_zoo"},
        "extensionsUsed": [unlit],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "panorama"}],
        "meshes": [{"primitives": [primitive], "name": "panorama"}],
        "materials": [{"pbrMetallicRoughness": surface, "extensions": {unlit: {}}}],
        "textures": [{"sampler": 0, "source": 0}],
        # Columns repeat, because the mesh continues beyond the seam; rows end at the poles.
        "samplers": [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": REPEAT, "wrapT": CLAMP_TO_EDGE}],
        "images": [{"mimeType": "image/jpeg", "bufferView": 3}],
    }
