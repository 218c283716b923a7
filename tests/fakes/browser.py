"""A headless Chromium that is driven as a user would, over the DevTools protocol in two pipes."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)
READY = "document.documentElement?.dataset.ready || document.documentElement?.dataset.error"
SECONDS = 60  # for anything: a deadline, never a wait


class Browser:
    """One tab. What its console complains about is collected in `complaints`."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = 0
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer.get("result", {})

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._reading], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {SECONDS} s")
            if not (data := os.read(self._reading, 1 << 20)):
                raise RuntimeError("Chromium has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Page.loadEventFired":
            self._loaded += 1
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([part.get("value") for part in parameters["args"]]))

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page, or of what it promises."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait for an expression to be true, frame by frame, and return its value."""
        end = time.monotonic() + SECONDS
        while not (value := self._run_unless_left(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}")
            self.frame()
        return value

    def frame(self) -> None:
        """Wait until the page has drawn everything so far."""
        self._run_unless_left(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        )

    def _run_unless_left(self, script: str) -> Any:
        """Return what `run` does, or nothing if another page is on its way, as after a click on a link."""
        try:
            return self.run(script)
        except RuntimeError as error:
            if "navigated" in str(error) or "context" in str(error):
                return None
            raise

    def open(self, address: str, width: int, height: int, phone: bool = False, ready: str = READY) -> None:
        """Load a page in a window of a size, and wait until it is ready."""
        self.complaints.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        for place in ("about:blank", address):  # the same file with another link alone would not be loaded again
            before = self._loaded
            self.call("Page.navigate", url=place)
            while self._loaded == before:
                self._next()
        self.until(ready)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move, press or release the mouse."""
        names = {"move": "mouseMoved", "down": "mousePressed", "up": "mouseReleased", "wheel": "mouseWheel"}
        button = {"button": "left", "clickCount": 1} if kind in ("down", "up") else {}
        self.call("Input.dispatchMouseEvent", type=names[kind], x=x, y=y, **button, **more)

    def click(self, x: float, y: float) -> None:
        for kind in ("move", "down", "up"):
            self.mouse(kind, x, y)
        self.frame()

    def press(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y, width, height = self.box(selector)
        self.click(x + width / 2, y + height / 2)

    def box(self, selector: str) -> list[float]:
        """Return where an element is: left, top, width and height."""
        place = f"document.querySelector('{selector}').getBoundingClientRect()"
        return self.run(f"(({{x, y, width, height}}) => [x, y, width, height])({place})")

    def key(self, name: str, frames: int = 1) -> None:
        """Press a key and hold it for some frames."""
        code = {"key": name, **({"text": name} if len(name) == 1 else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code)
        for _ in range(frames):
            self.frame()
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name)
        self.frame()

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        """Put down, move or lift fingers; `places` are those that remain."""
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)
        self.frame()

    def text(self, name: str) -> str:
        return self.run(f"document.getElementById('{name}').textContent")

    def screenshot(self) -> bytes:
        """Return what is seen as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium, and end it with all its processes."""
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    # The protocol wants 3 and 4: its ends must not lie there before.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (from_us, to_us)]
    actions = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)]
    actions.append((os.POSIX_SPAWN_OPEN, 2, str(profile) + ".log", os.O_WRONLY | os.O_CREAT, 0o600))
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}"]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0)
    for end in (from_us, to_us, *high):
        os.close(end)
    try:
        yield Browser(from_it, to_it)
    finally:
        os.close(from_it)
        os.close(to_it)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
