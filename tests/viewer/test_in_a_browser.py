"""The page in Chromium without a window: what it says, draws and measures."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mtpano_zoo.prediction import Prediction
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.viewer.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MORE = ("--window-size=600,400", "--virtual-time-budget=30000", "--disable-dev-shm-usage", "--dump-dom")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def visit(folder: Path, content: str, address: str) -> str:
    """Return the page as the browser has it when all scripts have run."""
    path = folder / "page.html"
    path.write_text(content, encoding="utf-8")
    command = [str(CHROMIUM), *OPTIONS, *MORE, f"--user-data-dir={folder / 'profile'}", f"{path.as_uri()}#{address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    dom = done.stdout
    assert 'data-ready="true"' in dom, done.stderr[-2000:]
    assert "data-error=" not in dom.partition("<head>")[0] and "no WebGL" not in of(dom, "notes")
    return dom


def of(dom: str, name: str) -> str:
    """The text of an output."""
    found = re.search(rf'<(\w+) id="{name}"[^>]*>(.*?)</\1>', dom, re.DOTALL)
    assert found
    return html.unescape(re.sub("<[^>]+>", "", found[2]))


def metres(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) m", text)]


def test_a_link_shows_a_distance_in_a_rendered_room(tmp_path: Path) -> None:
    """From the floor to the ceiling it is what the room's own boxes say, and straight what the points say."""
    scene = sample_room(0, "test", 1)
    maps = render([scene], 64, 128)
    depth, labels = maps["depth"][0].reshape(64, 128).numpy(), maps["semseg"][0].numpy()
    (v1, u1), (v2, u2) = (np.argwhere(labels == scene.classes.index(name))[9] for name in ("floor", "ceiling"))
    shown = Prediction(np.zeros((64, 128, 3), np.uint8), {"depth": depth}, (), np.zeros((0, 3), np.uint8))
    dom = visit(tmp_path, page(shown, "room"), f"view=scene&layer=distance&a={u1},{v1}&b={u2},{v2}")
    assert 'data-shown="scene distance"' in dom
    rays = erp_rays(64, 128).double().numpy()
    a, b = depth[v1, u1] * rays[v1, u1], depth[v2, u2] * rays[v2, u2]
    length, _, rise = metres(of(dom, "measure"))
    assert length == pytest.approx(np.linalg.norm(a - b), rel=1e-3)
    ceiling = scene.upper[scene.labels == scene.classes.index("ceiling")][:, 1].min()
    assert rise == pytest.approx(abs(ceiling), rel=0.01)


def test_without_distances_the_page_says_so(room: Prediction, tmp_path: Path) -> None:
    empty = Prediction(room.image, {"depth": np.zeros((64, 128), np.float32)}, (), np.zeros((0, 3), np.uint8))
    dom = visit(tmp_path, page(empty, "empty"), "view=scene&layer=classes&a=1,1&b=2,2")
    assert 'data-shown="panorama image"' in dom
    assert "no pixel has a distance" in of(dom, "notes") and "no distance" in of(dom, "measure")
