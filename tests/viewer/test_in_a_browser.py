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

# Moves the mouse, clicks and presses keys when the page is ready; a result per line.
USER = """<script>
const said = [];
const say = (text) => said.push(text);
// Without a window and in virtual time, frames do not come by themselves.
window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 20);
const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
const key = async (name) => { window.dispatchEvent(new KeyboardEvent("keydown", { key: name })); await frame(); };
async function point(kind, x, y) {
  const canvas = document.getElementById("canvas");
  canvas.setPointerCapture = () => {};
  const init = { pointerId: 1, clientX: x, clientY: y, bubbles: true };
  canvas.dispatchEvent(new PointerEvent(`pointer${kind}`, init));
  await frame();
}
async function act() {
  while (!document.documentElement.dataset.ready) await frame();
  const text = (id) => document.getElementById(id).textContent;
  const [x, y] = [document.documentElement.clientWidth / 2, document.documentElement.clientHeight / 2];
  ACTS
  const output = document.createElement("pre");
  output.id = "said";
  output.textContent = said.join("\\n");
  document.body.append(output);
}
act().catch((error) => { document.documentElement.dataset.error = error.message; });
</script>"""


def visit(folder: Path, content: str, address: str = "", acts: str = "") -> tuple[str, list[str]]:
    """Return the page as the browser has it in the end, and what the acts said."""
    path = folder / "page.html"
    extra = USER.replace("ACTS", acts) if acts else ""
    path.write_text(content.replace("</body>", f"{extra}</body>"), encoding="utf-8")
    command = [str(CHROMIUM), *OPTIONS, *MORE, f"--user-data-dir={folder / 'profile'}", f"{path.as_uri()}#{address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    dom = done.stdout
    assert 'data-ready="true"' in dom, done.stderr[-2000:]
    assert "data-error" not in dom.partition(">")[2][:2000] and "no WebGL" not in re.sub(
        "<script.*?</script>", "", dom, flags=re.DOTALL
    )
    said = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    return dom, html.unescape(said[1]).splitlines() if said else []


def of(dom: str, name: str) -> str:
    """The text of an output."""
    found = re.search(rf'<(\w+) id="{name}"[^>]*>(.*?)</\1>', dom, re.DOTALL)
    assert found
    return html.unescape(re.sub("<[^>]+>", "", found[2]))


def metres(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) m", text)]


def test_a_user_looks_switches_and_measures(room: Prediction, tmp_path: Path) -> None:
    """In the box of the fixture: the wall ahead is 3 m away, the ceiling 2.7 m above the floor."""
    acts = """
      await point("move", x, y); say(text("hover"));
      await key("2"); say(text("legend")); say(document.documentElement.dataset.shown);
      await key("3"); say(text("legend")); say(document.documentElement.dataset.shown);
      await key("4"); say(document.documentElement.dataset.shown);
      await key("m"); say(text("measure"));
      for (const [at, below] of [[x - 60, -60], [x + 60, 60]]) {
        await point("move", at, y + below); say(text("hover"));
        await point("down", at, y + below); await point("up", at, y + below);
      }
      say(text("measure"));
      await key("v"); await point("move", x, y); say(text("hover")); say(document.documentElement.dataset.shown);
      await key("Escape"); say("cleared " + text("measure"));
      await key("w"); await frame(); window.dispatchEvent(new Event("blur"));
      say(view.position[2] > 0 ? "walked" : "stood");
    """
    _, said = visit(tmp_path, page(room, "box"), "yaw=0&pitch=0", acts)
    assert said[0].startswith("front · 3.00") and "normal 0.00 0.00 -1.00" in said[0]
    assert "ceiling" in said[1] and "no label" in said[1] and said[2] == "panorama classes"
    assert len(metres(said[3])) == 3 and said[4] == "panorama distance" and said[5] == "panorama normals"
    assert said[6] == "click the first point"
    pixels = [tuple(map(int, re.search(r"pixel (\d+), (\d+)", line).groups())) for line in said[7:9]]
    points = [(room.depth[v, u] * erp_rays(64, 128)[v, u]).double().numpy() for u, v in pixels]
    length, level, rise = metres(said[9])
    assert length == pytest.approx(np.linalg.norm(points[1] - points[0]), abs=0.002)
    assert rise == pytest.approx(abs(points[1][1] - points[0][1]), abs=0.002)
    assert level == pytest.approx(np.hypot(*(points[1] - points[0])[[0, 2]]), abs=0.002)
    assert said[10].startswith("front · 3.00") and said[11] == "scene normals"
    assert said[12] == "cleared " and said[13] == "walked"


def test_a_link_shows_a_distance_in_a_rendered_room(tmp_path: Path) -> None:
    """From the floor to the ceiling it is what the room's own boxes say, and straight what the points say."""
    scene = sample_room(0, "test", 1)
    maps = render([scene], 64, 128)
    depth, labels = maps["depth"][0].reshape(64, 128).numpy(), maps["semseg"][0].numpy()
    (v1, u1), (v2, u2) = (np.argwhere(labels == scene.classes.index(name))[9] for name in ("floor", "ceiling"))
    shown = Prediction(np.zeros((64, 128, 3), np.uint8), {"depth": depth}, (), np.zeros((0, 3), np.uint8))
    dom, _ = visit(tmp_path, page(shown, "room"), f"view=scene&layer=distance&a={u1},{v1}&b={u2},{v2}")
    assert 'data-shown="scene distance"' in dom
    rays = erp_rays(64, 128).double().numpy()
    a, b = depth[v1, u1] * rays[v1, u1], depth[v2, u2] * rays[v2, u2]
    length, _, rise = metres(of(dom, "measure"))
    assert length == pytest.approx(np.linalg.norm(a - b), rel=1e-3)
    ceiling = scene.upper[scene.labels == scene.classes.index("ceiling")][:, 1].min()
    assert rise == pytest.approx(abs(ceiling), rel=0.01)


def test_without_distances_the_page_says_so(room: Prediction, tmp_path: Path) -> None:
    empty = Prediction(room.image, {"depth": np.zeros((64, 128), np.float32)}, (), np.zeros((0, 3), np.uint8))
    dom, _ = visit(tmp_path, page(empty, "empty"), "view=scene&layer=classes&a=1,1&b=2,2")
    assert 'data-shown="panorama image"' in dom
    assert "no pixel has a distance" in of(dom, "notes") and "no distance" in of(dom, "measure")
