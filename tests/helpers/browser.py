"""A headless Chromium, driven over a pair of pipes with its own protocol: no driver, no port, no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = next(
    (actual for actual in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if actual), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --hide-scrollbars "
    "--remote-debugging-pipe"
)


class Browser:
    """One page of a running Chromium. `heard` holds every event that it sent."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.rest, self.count = to, back, b"", 0
        self.heard: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    session: str | None = None

    def send(self, method: str, /, **params: Any) -> dict[str, Any]:
        """One command, and its answer."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def next(self, timeout: float = 60) -> dict[str, Any]:
        """The next message; events are kept."""
        deadline = time.monotonic() + timeout
        while b"\0" not in self.rest:
            assert select.select([self.back], [], [], max(0, deadline - time.monotonic()))[0], "the browser is silent"
            data = os.read(self.back, 1 << 16)
            assert data, "the browser has gone"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.heard.append(message)
        return message

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open a file and wait until it is loaded."""
        self.heard.clear()
        self.look(width=width, height=height, dark=dark)
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.heard):
            self.next()

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Set the width of the window and the colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, code: str) -> Any:
        """The value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard: ArrowLeft, Tab, Home..."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Tab": 9, "Enter": 13, " ": 32}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, selector: str = "html") -> bytes:
        """PNG of the first element that fits; needs no script in the page."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        corners = self.send("DOM.getBoxModel", nodeId=node)["model"]["border"]
        view = self.send("Page.getLayoutMetrics")["cssLayoutViewport"]
        left, top = corners[0] + view["pageX"], corners[1] + view["pageY"]
        clip = {"x": left, "y": top, "width": corners[2] - corners[0], "height": corners[5] - corners[1], "scale": 1}
        shot = self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def complaints(self) -> list[Any]:
        """Errors, warnings and exceptions that reached the console."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.heard if event["method"] in kinds]

    def addresses(self) -> list[str]:
        """What the page asked for."""
        asked = [event["params"] for event in self.heard if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in asked]


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """A browser with a fresh profile."""
    assert PROGRAM is not None
    inward, to = os.pipe()
    back, outward = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol reads from descriptor 3 and writes to 4; high numbers first, so that neither covers the other.
        shell = f'exec "$@" 3<&{inward} 4>&{outward}'
        command = ["bash", "-c", shell, "bash", PROGRAM, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, pass_fds=(inward, outward), stderr=subprocess.DEVNULL) as process:
            os.close(inward)
            os.close(outward)
            try:
                yield Browser(to, back)
            finally:
                os.close(to)  # it ends with its pipe
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                os.close(back)
