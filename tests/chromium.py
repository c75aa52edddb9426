"""Headless Chromium, if available, driven over a pipe with the DevTools protocol: no sockets, no packages."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE = 60  # timeout in seconds; a browser starts slowly on a busy machine


class Chromium:
    """One browser with one page. `errors` collects the errors on the page's console."""

    def __init__(self, profile: Path, width: int = 1200, height: int = 900):
        command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if command is None:
            pytest.skip("the pages are looked at in Chromium, and there is none: apt-get install chromium")
        read, self.to = os.pipe()
        self.back, write = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
        arguments = f"{flags} --user-data-dir={profile} --window-size={width},{height} about:blank"
        shell = f"exec {command} {arguments} 3<&{read} 4>&{write}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["bash", "-c", shell], pass_fds=(read, write), **quiet)
        os.close(read)
        os.close(write)
        self.count, self.rest, self.errors, self.session = 0, b"", [], None
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params) -> dict:
        """Send one command and return its result. Console messages received meanwhile are added to `errors`."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            chunk = os.read(self.back, 1 << 20)
            assert chunk, "Chromium has ended"
            self.rest += chunk
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])

    def open(self, page: Path) -> None:
        """Load a file and wait until it is fully loaded."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while not self.run(
            f"location.href === {json.dumps(page.resolve().as_uri())} && document.readyState === 'complete'"
        ):
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.05)

    def run(self, expression: str):
        """Evaluate a JavaScript expression in the page; promises are awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Real key strokes, given as KeyboardEvent.key names."""
        for key in keys:
            code = {"Enter": 13, "Backspace": 8, "Tab": 9, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}[
                key
            ]
            text = {"Enter": "\r", " ": " "}.get(key, "")
            stroke = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **stroke)
            self.send("Input.dispatchKeyEvent", type="keyUp", **stroke)

    def click(self, selector: str) -> None:
        """A real click in the middle of the first matching element."""
        box = "(({x, y, width: w, height: h}) => [x + w / 2, y + h / 2])"
        x, y = self.run(f"{box}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, width: int, height: int = 900, dark: bool = False, whole: bool = True) -> None:
        """Save a PNG of the page, for visual inspection."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        os.close(self.to)
        os.close(self.back)
        self.process.kill()
        self.process.wait()
