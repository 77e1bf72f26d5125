"""A browser without a window, driven over two pipes by the Chrome DevTools Protocol."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
START = (
    "import os, sys; read, write = (os.dup(int(fd)) for fd in sys.argv[1:3]);"
    "os.dup2(read, 3); os.dup2(write, 4); os.set_inheritable(3, True); os.set_inheritable(4, True);"
    "os.execvp(sys.argv[3], sys.argv[3:])"
)
"""The browser reads commands from its descriptor 3 and answers on 4."""
PATIENCE = 60.0
"""Seconds that the browser has for one command."""


def program() -> str | None:
    """The browser of this machine, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab: commands, scripts, keys and pictures."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._buffer, self._last, self._session = b"", 0, ""
        self.events: list[Mapping[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command; what happens meanwhile goes to `events`."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": parameters}
        os.write(
            self._write, json.dumps(command | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (found := self._message()).get("id") != self._last:
            self.events.append(found)
        assert "error" not in found, (method, found["error"])
        return found["result"]

    def _message(self) -> Mapping[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: Mapping[str, Any] = json.loads(message)
        return found

    def script(self, code: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, code: str) -> None:
        """Waits for an expression to hold."""
        end = time.monotonic() + PATIENCE
        while not self.script(code):
            assert time.monotonic() < end, code
            time.sleep(0.02)

    def open(self, address: str, width: int = 1000, dark: bool = False) -> None:
        """Loads a page in a window of this width."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=address)
        self.until(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def press(self, key: str, control: bool = False) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            code = {"Enter": 13, "Tab": 9}[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      modifiers=2 * control)  # fmt: skip


@contextlib.contextmanager
def browsing(name: str, profile: Path) -> Iterator[Page]:
    """A page of a browser with an empty profile."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [sys.executable, "-c", START, str(to_read), str(from_write), name, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=(to_read, from_write), stderr=subprocess.DEVNULL)
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(from_read, to_write)
    finally:
        process.kill()
        process.wait(20)
        os.close(from_read)
        os.close(to_write)
