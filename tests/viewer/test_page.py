import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mtpano_zoo.image_io import Window, encode_normals
from mtpano_zoo.prediction import Prediction
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.viewer.page import MAP_ROWS, TRIANGLES, mesh_stride, packed, page, write_page


class Parsed(HTMLParser):
    """Elements with their attributes, and the texts of scripts and title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"after {tag}", {}))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.elements[-1][0] if self.elements else "", []).append(data)

    @property
    def scene(self) -> dict:
        return json.loads(self.texts["script"][0])


def unpacked(text: str, width: int, kind: str) -> np.ndarray:
    """Read what `packed` writes, without numpy's differences and planes."""
    data, size = zlib.decompress(base64.b64decode(text)), np.dtype(kind).itemsize
    count = len(data) // size
    values: list[int] = []
    for i in range(count):
        step = sum(data[part * count + i] << (8 * part) for part in range(size))
        values.append((step + (values[-1] if i % width else 0)) % 256**size)
    return np.array(values, kind).reshape(-1, width)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
def test_packing_loses_nothing(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (3, 5, 7), kind, endpoint=True)
    assert np.array_equal(unpacked(packed(values), 7, kind).reshape(3, 5, 7), values)


def test_it_holds_everything_and_asks_nobody(room: Prediction) -> None:
    text = page(room, "a <b> & c")
    parsed = Parsed(text)
    assert parsed.texts["title"] == ["a <b> & c"]
    assert "@@" not in re.sub(r"<script>.*", "", text, flags=re.DOTALL)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    policy = next(element["content"] for _, element in parsed.elements if "http-equiv" in element)
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    own = "".join(parsed.texts["style"] + parsed.texts["script"][2:])
    assert not re.search(r"https?:|//\w+\.|@import|url\(|\bimport\b|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", own)
    # The only address in three.js names a kind of element.
    assert set(re.findall(r"https?://[\w./]+", parsed.texts["script"][1])) == {"http://www.w3.org/1999/xhtml"}
    assert "Copyright © 2010-2026 three.js authors" in text and "Permission is hereby granted" in text


def test_maps_are_those_of_the_prediction(room: Prediction) -> None:
    scene = Parsed(page(room, "room")).scene
    assert scene["size"] == [128, 64] and scene["stride"] == 1 and scene["notes"] == []
    assert scene["classes"] == list(room.classes) and np.array_equal(scene["palette"], room.palette)
    assert np.array_equal(unpacked(scene["maps"]["semseg"], 128, "uint16"), room.semseg)
    normals = unpacked(scene["maps"]["normals"], 128, "uint8").reshape(3, 64, 128)
    assert np.array_equal(normals.transpose(1, 2, 0), encode_normals(room.normals))
    assert scene["image"].startswith("data:image/jpeg;base64,/9j/")


def distances(scene: dict, width: int) -> np.ndarray:
    steps = unpacked(scene["maps"]["depth"], width, "uint16").astype(np.float64)
    near, far = scene["range"]
    return np.where(steps > 0, near * (far / near) ** ((steps - 1) / 65534), 0)


def test_distances_are_exact(room: Prediction) -> None:
    read = distances(Parsed(page(room, "room")).scene, 128)
    assert (read[room.depth == 0] == 0).all() and (read[:, 4:6] == 0).all()
    np.testing.assert_allclose(read, room.depth, rtol=3e-5)
    far = np.geomspace(0.01, 5000, 16 * 32, dtype=np.float32).reshape(16, 32)
    scene = Parsed(page(Prediction(room.image[:16, :32], {"depth": far}, (), np.zeros((0, 3), np.uint8)), "far")).scene
    np.testing.assert_allclose(distances(scene, 32), far, rtol=2e-4)


def test_the_ceiling_of_a_rendered_room_is_where_it_is() -> None:
    """Between a pixel of the floor and one of the ceiling, the page measures the height of the room."""
    scene = sample_room(0, "test", 1)
    maps = render([scene], 32, 64)
    depth = maps["depth"][0].reshape(32, 64).numpy()
    shown = Prediction(np.zeros((32, 64, 3), np.uint8), {"depth": depth}, (), np.zeros((0, 3), np.uint8))
    points = distances(Parsed(page(shown, "room")).scene, 64)[..., None] * erp_rays(32, 64).numpy()
    floor, ceiling = (maps["semseg"][0].numpy() == scene.classes.index(name) for name in ("floor", "ceiling"))
    assert floor[-1].any() and ceiling[0].any()
    # The camera stands -y above the floor; the ceiling is a plane above it, whose level the room knows.
    assert points[floor][:, 1].max() == pytest.approx(-scene.camera[1], rel=1e-3)
    boxes = scene.upper[scene.labels == scene.classes.index("ceiling")]
    assert points[ceiling][:, 1].min() == pytest.approx(boxes[:, 1].min() - scene.camera[1], rel=1e-3)


def test_the_mesh_has_a_limit_and_maps_too() -> None:
    depth = np.full((1100, 2200), 2, np.float32)
    depth[:, :10] = 0
    text = page(Prediction(np.zeros((1100, 2200, 3), np.uint8), {"depth": depth}, (), np.zeros((0, 3), np.uint8)), "a")
    scene = Parsed(text).scene
    assert scene["stride"] == 2 and scene["mesh"]["triangles"]["width"] / 3 <= TRIANGLES
    bytes_of_map = zlib.decompress(base64.b64decode(scene["maps"]["depth"]))
    assert len(bytes_of_map) == 2 * 550 * 1100 and MAP_ROWS >= 550  # rows 1, 3, 5, ...
    assert scene["notes"] == [
        f"the scene has one row and column in 5, {scene['mesh']['triangles']['width'] // 3:,} triangles"
    ]
    for height in (2, 300, 512, 2048, 6000):
        stride = mesh_stride(height, 2 * height)
        assert 2 * -(-height // stride) * -(-2 * height // stride) <= 1.02 * TRIANGLES


@pytest.mark.parametrize("depth", [np.zeros((16, 32), np.float32), np.full((16, 32), np.nan, np.float32), None])
def test_without_distances_there_is_no_scene(depth: np.ndarray | None, room: Prediction) -> None:
    maps = {"semseg": room.semseg[:16, :32]} | ({} if depth is None else {"depth": depth})
    scene = Parsed(page(Prediction(room.image[:16, :32], maps, room.classes, room.palette), "empty")).scene
    assert scene["mesh"] is None and len(scene["notes"]) == 1
    assert "no scene" in scene["notes"][0] and "distance" in scene["notes"][0]


def test_a_crop_lies_where_it_was() -> None:
    window = Window(4, 8, 8, 16, 16, 32)
    maps = {"depth": np.ones((8, 16), np.float32), "semseg": np.zeros((8, 16), np.uint8)}
    shown = Prediction(np.zeros((8, 16, 3), np.uint8), maps, ("wall",), np.zeros((1, 3), np.uint8), window=window)
    scene = Parsed(page(shown, "crop")).scene
    inside = np.zeros((16, 32), bool)
    inside[4:12, 8:24] = True
    assert np.array_equal(distances(scene, 32) > 0, inside)
    assert np.array_equal(unpacked(scene["maps"]["semseg"], 32, "uint16") == 0, inside)


def test_names_cannot_end_the_script(room: Prediction) -> None:
    named = Prediction(room.image, room.maps, ("</script><b>", *room.classes[1:]), room.palette)
    assert Parsed(page(named, "</title><script>")).scene["classes"][0] == "</script><b>"


def test_a_page_is_not_replaced_unasked(room: Prediction, tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", room, "room")
    with pytest.raises(FileExistsError, match="already exists"):
        write_page(tmp_path / "a.html", room, "room")
    with pytest.raises(ValueError, match=r"room_depth\.npy must end in \.html"):
        write_page(tmp_path / "room_depth.npy", room, "room", overwrite=True)
    write_page(tmp_path / "a.html", room, "other", overwrite=True)
    assert "<title>other</title>" in (tmp_path / "a.html").read_text(encoding="utf-8")
