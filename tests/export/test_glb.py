import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from mtpano_zoo.export import glb
from mtpano_zoo.export.glb import write_glb
from mtpano_zoo.export.mesh import sphere_mesh
from mtpano_zoo.scenes import Room, render, sample_room
from mtpano_zoo.sphere import erp_rays, rays_to_pixels, rotation_matrix


def opened(path: Path) -> trimesh.Trimesh:
    return trimesh.load(path, force="mesh", process=False)


def smooth(height: int) -> np.ndarray:
    """An image that says where it looks: the ray in red, green and blue."""
    return (erp_rays(height, 2 * height).numpy() * 100 + 128).round().astype(np.uint8)


def test_a_sphere_comes_back_closed(tmp_path: Path) -> None:
    write_glb(tmp_path / "a.glb", sphere_mesh(np.full((32, 64), 2, np.float32)), smooth(32))
    mesh = opened(tmp_path / "a.glb")
    assert len(mesh.faces) == 2 * 32 * 64
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2
    # The faces look inwards, so the volume counts negative.
    assert mesh.volume == pytest.approx(-4 / 3 * np.pi * 8, rel=0.01)


def test_every_corner_has_the_colour_of_its_direction(tmp_path: Path) -> None:
    """Position, place in the texture and texture agree, in the axes of glTF: x right, y up, -z ahead."""
    depth = np.random.default_rng(0).uniform(1, 1.05, (64, 128)).astype(np.float32)
    write_glb(tmp_path / "a.glb", sphere_mesh(depth), smooth(64))
    mesh = opened(tmp_path / "a.glb")
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")).astype(float)
    uv = mesh.visual.uv
    row = np.clip(np.floor((1 - uv[:, 1]) * 64), 0, 63).astype(int)  # trimesh counts v from below
    column = np.floor(uv[:, 0] * 128).astype(int) % 128
    rays = mesh.vertices * (1, -1, -1) / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert np.abs(texture[row, column] - (rays * 100 + 128)).max() < 14  # half a pixel at the poles, and JPEG
    assert np.abs(texture[row, column] - (rays * 100 + 128)).mean() < 2
    for direction, pixel in (((0, 0, -1), (32, 64)), ((1, 0, 0), (32, 96)), ((0, 1, 0), (0, 64))):
        nearest = (mesh.vertices @ direction).argmax()
        assert np.abs(texture[row[nearest], column[nearest]] - smooth(64)[pixel]).max() < 14


def test_the_seam_has_no_gap(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(1, 1.02, (16, 32)).astype(np.float32)
    write_glb(tmp_path / "a.glb", sphere_mesh(depth), smooth(16))
    mesh = opened(tmp_path / "a.glb")
    first, last = (np.isclose(mesh.visual.uv[:, 0], u) for u in (0.5 / 32, 32.5 / 32))
    assert first.sum() == last.sum() == 16
    assert np.array_equal(mesh.vertices[first], mesh.vertices[last])
    spread = mesh.visual.uv[mesh.faces, 0]
    assert (spread.max(1) - spread.min(1)).max() < 1.01 / 32  # no triangle shows the whole image
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight


@pytest.fixture(scope="module")
def room() -> Room:
    return sample_room(0, "train", 3)


def test_walls_of_a_room_lie_in_their_planes(room: Room, tmp_path: Path) -> None:
    batch = render([room], 64, 128)
    depth, semseg = batch["depth"][0].numpy(), batch["semseg"][0].numpy()
    write_glb(tmp_path / "a.glb", sphere_mesh(depth), (batch["image"][0].permute(1, 2, 0) * 255).byte().numpy())
    mesh = opened(tmp_path / "a.glb")
    ours = torch.from_numpy(mesh.vertices * (1, -1, -1))
    column, row = rays_to_pixels(ours, 64, 128).round().long().T.numpy()
    names = np.array(room.classes)[semseg[np.clip(row, 0, 63), column % 128]]
    turn = rotation_matrix(yaw=float(np.degrees(room.yaw)), dtype=torch.float64).numpy()
    inside = ours.numpy() @ turn + room.camera  # in the frame of the room
    walls = [i for i, label in enumerate(room.labels) if room.classes[label] in ("wall", "floor", "ceiling")]
    assert len(walls) > 5
    of_walls = np.isin(names, ("wall", "floor", "ceiling"))
    assert of_walls.mean() > 0.3
    # The distance of every corner from the nearest face of a box, all of which lie along the axes.
    faces = np.concatenate([room.lower[walls], room.upper[walls]])
    assert not room.frames[walls].any()
    gaps = np.abs(inside[of_walls][:, None] - faces).min(1).min(1)
    assert np.percentile(gaps, 99) < 0.002
    level = inside[(names == "floor")][:, 1]
    assert len(level) > 500 and np.abs(level).max() < 0.002
    assert mesh.bounds[1, 1] == pytest.approx(room.camera[1] + 3.52114, abs=0.01)  # the ceiling is above, at +y


def test_the_file_is_what_the_specification_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glb, "MAX_TEXTURE", 32)
    write_glb(tmp_path / "a.glb", sphere_mesh(np.full((24, 48), 2, np.float32)), smooth(24))
    data = (tmp_path / "a.glb").read_bytes()
    magic, version, total, length, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, total, kind, length % 4) == (b"glTF", 2, len(data), b"JSON", 0)
    described = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack("<I4s", data[20 + length : 28 + length])
    buffer = data[28 + length :]
    assert kind == b"BIN\0" and size == len(buffer) == described["buffers"][0]["byteLength"] and size % 4 == 0
    views = [buffer[v["byteOffset"] : v["byteOffset"] + v["byteLength"]] for v in described["bufferViews"]]
    assert all(view["byteOffset"] % 4 == 0 for view in described["bufferViews"])
    positions = np.frombuffer(views[0], np.float32).reshape(-1, 3)
    accessor = described["accessors"][0]
    assert accessor["count"] == len(positions)
    assert accessor["min"] == positions.min(0).tolist() and accessor["max"] == positions.max(0).tolist()
    assert np.frombuffer(views[2], np.uint32).max() == len(positions) - 1
    with Image.open(io.BytesIO(views[3])) as texture:
        assert texture.format == "JPEG" and texture.size == (32, 16)
