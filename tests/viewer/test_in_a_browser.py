"""The page in headless Chromium, used by mouse, keys and fingers: what it says, draws and measures."""

import io
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, READY, Browser, chromium
from PIL import Image
from waiting import until

from mtpano_zoo.cli import main
from mtpano_zoo.prediction import Prediction
from mtpano_zoo.scenes import Room, render, sample_room
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.viewer.page import page
from mtpano_zoo.viz import colour_depth, default_palette, depth_range

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page in")

WIDTH, HEIGHT = 800, 400


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as started:
        yield started


@pytest.fixture(scope="module")
def scene() -> Room:
    return sample_room(0, "test", 1)


@pytest.fixture(scope="module")
def rendered(scene: Room) -> Prediction:
    """All maps of a rendered room, 64 x 128."""
    maps = {key: value[0].numpy() for key, value in render([scene], 64, 128).items() if key != "id"}
    image = np.rint(maps["image"].transpose(1, 2, 0) * 255).astype(np.uint8)
    maps = {
        "semseg": maps["semseg"].astype(np.uint8),
        "depth": maps["depth"],
        "normals": maps["normals"].transpose(1, 2, 0),
    }
    return Prediction(image, maps, scene.classes, default_palette(len(scene.classes)))


@pytest.fixture(scope="module")
def address(rendered: Prediction, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the page of the rendered room is."""
    path = tmp_path_factory.mktemp("page") / "room.html"
    path.write_text(page(rendered, "room"), encoding="utf-8")
    return path.as_uri()


def place(ray: np.ndarray, yaw: float = 0, fov: float = 80) -> tuple[float, float]:
    """Where a level view shows a direction, in pixels of the window."""
    sin, cos = np.sin(np.radians(yaw)), np.cos(np.radians(yaw))
    x, y, z = ray[0] * cos - ray[2] * sin, ray[1], ray[0] * sin + ray[2] * cos
    assert z > 0
    focal = HEIGHT / 2 / np.tan(np.radians(fov / 2))
    return WIDTH / 2 + focal * x / z, HEIGHT / 2 + focal * y / z


def pixels_in_view(yaw: float = 0) -> list[tuple[int, int]]:
    """Rows and columns in the part of the window that the controls leave free."""
    rays = erp_rays(64, 128).numpy()
    free = []
    for v, u in np.ndindex(64, 128):
        turn = (np.degrees(np.arctan2(rays[v, u, 0], rays[v, u, 2])) - yaw + 180) % 360 - 180
        if abs(turn) < 55 and abs(v - 31.5) < 14:
            x, y = place(rays[v, u], yaw)
            if 430 < x < WIDTH - 20 and 20 < y < HEIGHT - 60:
                free.append((v, u))
    return free


def metres(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) m", text)]


def colours(browser: Browser) -> np.ndarray:
    """What is seen, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)


def hovered(browser: Browser, at: tuple[float, float]) -> dict[str, str]:
    """What the page says about a place."""
    browser.mouse("move", *at)
    browser.frame()
    names = ("class", "distance", "direction", "normal", "pixel")
    return dict(zip(names, browser.text("hover").split(" · "), strict=True))


@pytest.mark.parametrize("mode", ["panorama", "scene"])
def test_hover_says_what_the_maps_hold(browser: Browser, address: str, rendered: Prediction, mode: str) -> None:
    browser.open(f"{address}#view={mode}&yaw=70", WIDTH, HEIGHT)
    rays, places = erp_rays(64, 128).numpy(), pixels_in_view(70)
    rows = slice(None, None, len(places) // 6)
    seen = set()
    for v, u in places[rows]:
        said = hovered(browser, place(rays[v, u], 70))
        assert said["pixel"] == f"pixel {u}, {v}" and said["class"] == rendered.classes[rendered.semseg[v, u]]
        assert metres(said["distance"]) == [pytest.approx(float(rendered.depth[v, u]), abs=6e-4)]
        lon, lat = map(float, re.findall(r"([+-][\d.]+)°", said["direction"].replace("\N{MINUS SIGN}", "-")))
        assert lon == pytest.approx((u + 0.5) / 128 * 360 - 180, abs=0.051)
        assert lat == pytest.approx(90 - (v + 0.5) / 64 * 180, abs=0.051)
        normal = [float(part) for part in said["normal"].split()[1:]]
        np.testing.assert_allclose(normal, rendered.normals[v, u], atol=0.011)
        seen.add(said["class"])
    assert len(seen) > 1 and browser.complaints == []


def test_layers_are_drawn_by_key_and_by_mouse(browser: Browser, address: str, rendered: Prediction) -> None:
    browser.open(f"{address}#yaw=70&strength=1", WIDTH, HEIGHT)
    expected = {
        "classes": rendered.palette[rendered.semseg],
        "distance": colour_depth(rendered.depth, *depth_range(rendered.depth)),
        "normals": np.rint(rendered.normals * 127 + 128).astype(np.uint8),
    }
    rays, places = erp_rays(64, 128).numpy(), pixels_in_view(70)[::37]
    for number, layer in enumerate(expected, start=2):
        for way in (str(number), f"[data-layer={layer}]"):
            browser.key("1")
            assert browser.run("document.documentElement.dataset.shown") == "panorama image"
            _ = browser.key(way) if len(way) == 1 else browser.press(way)
            browser.mouse("move", 1, 1)
            drawn = colours(browser)
            for v, u in places:
                x, y = place(rays[v, u], 70)
                assert np.abs(drawn[int(y), int(x)] - expected[layer][v, u]).max() <= 6, (layer, way, v, u)
        assert browser.run("document.documentElement.dataset.shown") == f"panorama {layer}"
    assert browser.complaints == []


def corner_of(scene: Room, name: str) -> float:
    """The height above the camera of the floor or ceiling of a room, metres, from its boxes."""
    boxes = scene.labels == scene.classes.index(name)
    level = scene.upper[boxes][:, 1].min() if name == "ceiling" else scene.lower[boxes][:, 1].max()
    return float(scene.camera[1] - level)


def test_clicks_measure_a_rendered_room(browser: Browser, address: str, rendered: Prediction, scene: Room) -> None:
    """Points are where the rays of the pixels meet the planes of floor and ceiling, as the room's boxes have them."""
    rays = erp_rays(64, 128).double().numpy()
    browser.open(f"{address}#fov=110&yaw=70", WIDTH, HEIGHT)
    browser.key("m")
    heights, points = {name: corner_of(scene, name) for name in ("floor", "ceiling")}, []
    for name, said in (("floor", "click the first point"), ("ceiling", "click the second point")):
        assert browser.text("measure").startswith(said)
        for v, u in np.argwhere(rendered.semseg == scene.classes.index(name)):
            x, y = place(rays[v, u], 70, 110) if abs((u + 0.5) / 128 * 360 - 250) < 60 else (0, 0)
            if 430 < x < WIDTH - 20 and 20 < y < HEIGHT - 60:
                break
        browser.click(x, y)
        points.append(rays[v, u] * -heights[name] / rays[v, u, 1])
    text = browser.text("measure")
    length, level, rise, height = metres(text)
    assert length == pytest.approx(np.linalg.norm(points[1] - points[0]), rel=0.01)
    assert level == pytest.approx(np.hypot(*(points[1] - points[0])[[0, 2]]), rel=0.01)
    assert rise == height == pytest.approx(heights["ceiling"] - heights["floor"], rel=0.01)
    assert f"up {rise:.3f} m" in text and f"ceiling height {height:.3f} m" in text
    browser.press("[data-mode=scene]")
    assert browser.text("measure") == text  # the same points, seen in the scene
    browser.key("Escape")
    assert browser.text("measure") == "" and browser.run("view.marks") == [] and browser.complaints == []


def test_a_link_and_the_pages_own_measures(browser: Browser, room: Prediction, tmp_path: Path) -> None:
    """In a box: along its front wall, 3 m ahead, and a link that shows the same again."""
    (tmp_path / "box.html").write_text(page(room, "box"), encoding="utf-8")
    rays = erp_rays(64, 128).double().numpy()
    browser.open((tmp_path / "box.html").as_uri(), WIDTH, HEIGHT)
    browser.press("#measuring")
    points = []
    for v, u in ((35, 66), (30, 72)):
        browser.click(*place(rays[v, u]))
        points.append(3 * rays[v, u] / rays[v, u, 2])
    way = points[1] - points[0]
    length, level, rise, wall, height = metres(browser.text("measure"))
    assert (length, rise) == (pytest.approx(np.linalg.norm(way), rel=1e-3), pytest.approx(-way[1], rel=5e-3))
    assert level == wall == pytest.approx(abs(way[0]), rel=5e-3) and height == 2.7
    browser.key("3")
    browser.key("v")
    browser.key("w", 6)
    browser.press("#link")
    state = "JSON.stringify([view.mode, view.layer, view.marks, [view.yaw, view.pitch, view.fov, ...view.position]])"
    left, link = json.loads(browser.run(state)), browser.run("location.href")
    picture = colours(browser)
    assert left[3][5] > 0.05  # walked ahead
    browser.open(link, WIDTH, HEIGHT)
    again = json.loads(browser.run(state))
    assert again[:3] == left[:3] == ["scene", "distance", [[66, 35], [72, 30]]]
    np.testing.assert_allclose(again[3], left[3], atol=5.1e-4)
    assert metres(browser.text("measure"))[:4] == [length, level, rise, wall]
    difference = np.abs(picture - colours(browser))[:, 430:]  # beside the controls
    assert (difference.max(-1) > 8).mean() < 0.01
    browser.key("r")
    assert browser.run("view.position") == [0, 0, 0]
    browser.run("location.hash = '#layer=normals&yaw=20'")
    browser.until("view.yaw === 20 && document.documentElement.dataset.shown === 'panorama normals'")
    assert browser.complaints == []


@pytest.mark.parametrize("rows", [64, 22, 16])
def test_points_of_subsampled_maps_are_on_the_walls(
    browser: Browser, room: Prediction, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtpano_zoo.viewer.page.MAP_ROWS", rows)
    (tmp_path / "box.html").write_text(page(room, "box"), encoding="utf-8")
    browser.open((tmp_path / "box.html").as_uri(), WIDTH, HEIGHT)
    pixels = [(v, u) for v in range(64) for u in range(10, 128)]  # two columns before them have no distance
    points = np.array(browser.run(f"{[[u, v] for v, u in pixels]}.map((at) => maps.point(at))"))
    sides = np.array([2.0, -1.5, 1.6, -1.1, 3.0, -2.5])  # right, left, down, up, ahead, behind
    np.testing.assert_allclose((points.repeat(2, 1) / sides).max(1), 1, atol=1e-4)
    rays = np.array([erp_rays(64, 128).numpy()[pixel] for pixel in pixels])
    apart = np.degrees(np.arccos(np.clip((rays * points).sum(1) / np.linalg.norm(points, axis=1), -1, 1)))
    assert apart.max() <= {64: 0.1, 22: 2, 16: 3}[rows] * np.sqrt(2) * 180 / 64 and browser.complaints == []


def test_looking_around(browser: Browser, address: str) -> None:
    browser.open(address, WIDTH, HEIGHT)
    browser.key("ArrowRight", 3)
    browser.key("ArrowUp", 3)
    assert browser.run("view.yaw") > 1 and browser.run("view.pitch") > 1
    browser.key("r")
    degrees = 80 / HEIGHT
    for kind, x in (("move", 600), ("down", 600), ("move", 550), ("move", 500)):
        browser.mouse(kind, x, 200, **({"buttons": 1} if kind == "move" and x < 600 else {}))
    assert browser.text("hover") == "" or browser.run("pointer") is None
    browser.mouse("up", 500, 200)
    assert browser.run("view.yaw") == pytest.approx(100 * degrees) and browser.run("view.marks") == []
    browser.mouse("wheel", 500, 200, deltaX=0, deltaY=-100)
    browser.until("view.fov < 80")
    browser.key("2")
    browser.press("#strength")  # the slider has the keys of its own only
    assert browser.run("view.strength") == 0.5
    browser.key("3")
    assert browser.run("view.layer") == "distance"
    browser.key("?")
    assert browser.run("document.getElementById('keys').open")
    browser.press("#keys button")
    assert not browser.run("document.getElementById('keys').open") and browser.complaints == []


def test_fingers(browser: Browser, address: str, rendered: Prediction) -> None:
    width, height = 390, 844
    browser.open(address, width, height, phone=True)
    browser.touch("Start", (200, 600))
    browser.touch("End")
    assert browser.text("hover").startswith(rendered.classes)
    browser.touch("Start", (200, 600))
    for x in (150, 100):
        browser.touch("Move", (x, 600))
    browser.touch("End")
    assert browser.run("view.yaw") == pytest.approx(100 * 80 / height, rel=1e-3) and browser.run("view.marks") == []
    browser.touch("Start", (150, 600))
    browser.touch("Start", (150, 600), (250, 600))
    browser.touch("Move", (100, 600), (300, 600))
    browser.touch("End", (100, 600))
    browser.touch("End")
    assert browser.run("view.fov") < 60 and browser.run("view.marks") == []
    browser.press("#measuring")
    for y in (500, 650):
        browser.touch("Start", (200, y))
        browser.touch("End")
    assert browser.run("view.marks.length") == 2 and metres(browser.text("measure"))
    box = browser.run(
        "(({right, bottom}) => [right, bottom])(document.getElementById('controls').getBoundingClientRect())"
    )
    assert box[0] <= width and box[1] < height / 2 and browser.complaints == []


def test_without_distances_the_page_says_so(browser: Browser, room: Prediction, tmp_path: Path) -> None:
    empty = Prediction(room.image, {"depth": np.zeros((64, 128), np.float32)}, (), np.zeros((0, 3), np.uint8))
    (tmp_path / "empty.html").write_text(page(empty, "empty"), encoding="utf-8")
    browser.open((tmp_path / "empty.html").as_uri() + "#view=scene&layer=classes&a=1,1&b=2,2", WIDTH, HEIGHT)
    assert browser.run("document.documentElement.dataset.shown") == "panorama image"
    assert "no pixel has a distance" in browser.text("notes") and "no distance" in browser.text("measure")
    assert browser.run("document.querySelector('[data-mode=scene]').disabled") and browser.complaints == []


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_folder_is_served_until_ctrl_c(
    browser: Browser, rendered: Prediction, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b c"):
        rendered.save(tmp_path / "results", name, panel=False)
        Image.fromarray(rendered.image).save(tmp_path / f"{name}.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["view", str(tmp_path / "results"), "--port", str(port)]
    seen: list[object] = []
    ended = threading.Event()

    def user() -> None:
        try:
            until(lambda: answers(port))
            browser.open(f"http://127.0.0.1:{port}/", WIDTH, HEIGHT, ready="document.links.length")
            seen.append(browser.run("[...document.links].map((link) => link.textContent)"))
            browser.press("li:last-child a")
            browser.until(READY)
            seen.extend((browser.run("document.title"), main(command)))
        finally:
            if not ended.is_set():
                signal.raise_signal(signal.SIGINT)  # Ctrl-C; the main thread serves

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        thread = threading.Thread(target=user)
        thread.start()
        code = main(command)
        ended.set()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 0
    assert seen == [["a", "b c"], "b c", 1] and browser.complaints == []
    said = capsys.readouterr()
    assert said.out == f"http://127.0.0.1:{port}/ (press Ctrl-C to stop)\n\n"
    assert f"port {port} is taken: choose another with --port" in said.err
