"""A real browser without a window, driven over the DevTools protocol. Chromium's pipe needs no package and no port."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --no-default-browser-check "
    "--disable-extensions --disable-background-networking --disable-component-update --disable-sync --mute-audio "
    "--hide-scrollbars --force-color-profile=srgb --remote-debugging-pipe"
).split()
NAMED_KEYS = {" ": "Space", "Enter": "Enter", "Delete": "Delete", "Escape": "Escape", "Backspace": "Backspace"}
CONTROL, SHIFT = 2, 8  # the modifiers' bits


def find() -> str | None:
    """The path of a Chromium or Chrome that is installed; None where there is none. Nothing is downloaded."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browsing(folder: Path, size: tuple[int, int] = (1100, 800)) -> Iterator["Browser"]:
    """A browser that keeps its own files, and what is saved with it, in `folder`."""
    to_read, to_write = os.pipe(), os.pipe()
    pipes = f'exec "$0" "$@" 3<&{to_read[0]} 4>&{to_write[1]}'  # Chromium reads 3 and writes 4
    command = ["bash", "-c", pipes, find(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(to_read[0], to_write[1]), stderr=log, stdout=log)
    os.close(to_read[0])
    os.close(to_write[1])
    browser = Browser(to_write[0], to_read[1], folder, size)
    try:
        browser.begin()
        yield browser
    finally:
        process.kill()
        process.wait()
        os.close(to_write[0])
        os.close(to_read[1])


class Browser:
    """One tab.

    Attributes:
        errors: what the page threw, or what its policy forbade.
        requests: the addresses that the page asked for.
    """

    def __init__(self, source: int, target: int, folder: Path, size: tuple[int, int]):
        self.source, self.target, self.folder, self.size = source, target, folder, size
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._session: str | None = None
        self._number, self._rest = 0, b""

    def begin(self) -> None:
        """Find the tab, and hear of what happens in it."""
        pages = [each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        width, height = self.size
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.folder))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self.target, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._hear(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self.source, 1 << 20)
            assert piece, (self.folder / "browser.log").read_text()[-2000:]
            self._rest += piece
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def _hear(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        if event.get("method") == "Log.entryAdded":
            self.errors.append(params["entry"]["text"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, page: Path) -> None:
        """Load a file, and wait until it is there."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)

    def press(self, *keys: str, control: bool = False, shift: bool = False) -> None:
        """Press keys, one after the other, as a person does."""
        for key in keys:
            code = NAMED_KEYS.get(key, key if len(key) > 1 else f"Key{key.upper()}")
            about = {"key": key, "code": code, "modifiers": CONTROL * control + SHIFT * shift}
            text = (
                {"text": "\r" if key == "Enter" else key} if (len(key) == 1 or key == "Enter") and not control else {}
            )
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, selector: str) -> None:
        """Click into the middle of the first element that a CSS selector finds."""
        spot = self.value(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    def saved(self, name: str, seconds: float = 60) -> str:
        """The text of a file that the page saved."""
        file, deadline = self.folder / name, time.monotonic() + seconds
        while not file.exists():
            self.value("1")
            assert time.monotonic() < deadline, f"{name} was not saved"
            time.sleep(0.05)
        return file.read_bytes().decode()

    def screenshot(self, file: Path) -> None:
        """Write a picture of the tab."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
