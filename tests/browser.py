"""Chromium without a window, told what to do by the WebDriver protocol: plain HTTP, no library needed."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

import pytest

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,3000",
]


class Browser:
    """One window of one browser, open as long as the `with` block lasts."""

    def __init__(self, profile: Path) -> None:
        self.flags = [*FLAGS, f"--user-data-dir={profile}"]

    def __enter__(self) -> "Browser":
        command = [str(PROGRAMS["chromedriver"]), "--port=0"]
        self.driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=_without_proxies()
        )
        assert self.driver.stdout is not None
        ports = (re.search(r"successfully on port (\d+)", line) for line in self.driver.stdout)
        port = next(found[1] for found in ports if found)
        self.address = f"http://127.0.0.1:{port}/session"
        chromium = {"binary": PROGRAMS["chromium"], "args": self.flags}
        answer = self._post("", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chromium}}})
        self.address += "/" + answer["sessionId"]
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with urlopen(Request(self.address, method="DELETE")):
            self.driver.terminate()
        self.driver.communicate()

    def open(self, url: str) -> None:
        """Go to a page, anew even where only the part after the # differs."""
        self._post("/url", {"url": "about:blank"})
        self._post("/url", {"url": url})

    def see(self, what: str, seconds: float = 60) -> Any:
        """The value of a JavaScript expression, as soon as it is true; AssertionError if it never is."""
        value, end = None, time.monotonic() + seconds
        while not value and time.monotonic() < end:
            value = self._post("/execute/sync", {"script": f"return {what}", "args": []})
            time.sleep(0.1)
        assert value, f"not on the page: {what}\n{self.text()}"
        return value

    def text(self) -> str:
        """All that can be read on the page."""
        return str(
            self._post("/execute/sync", {"script": "return document.body.innerText", "args": []})
        )

    def resize(self, width: int, height: int, media: str = "screen") -> None:
        """Show pages as in a window of that size, however narrow; `media="print"`: as on paper."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for command, params in (
            ("Emulation.setDeviceMetricsOverride", size),
            ("Emulation.setEmulatedMedia", {"media": media}),
        ):
            self._post("/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self, file: Path) -> None:
        with urlopen(f"{self.address}/screenshot") as answer:
            file.write_bytes(base64.b64decode(json.load(answer)["value"]))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with urlopen(Request(self.address + path, json.dumps(body).encode())) as answer:
            return json.load(answer)["value"]


@pytest.fixture(name="browser", scope="module")
def a_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    missing = [name for name, path in PROGRAMS.items() if path is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{' and '.join(missing)} are not installed")
    if missing:
        pytest.skip(f"looking at pages needs {' and '.join(missing)}")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def _without_proxies() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
