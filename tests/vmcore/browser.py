# SPDX-License-Identifier: LGPL-2.1-or-later
"""A headless Chromium for tests, by its driver; both are Debian's."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vmcore.tools import tool

WIDTH = 1400


@contextmanager
def chromium(folder: Path, *options: str) -> Iterator["Browser"]:
    """A browser with a profile of its own, which talks to nobody.

    The test is skipped where there is none, or fails where CI says that nothing may be skipped.
    """
    if os.environ.get("KGCORE_REQUIRE_VMCORES"):
        from selenium import webdriver
    else:
        webdriver = pytest.importorskip("selenium.webdriver")
    wanted = webdriver.ChromeOptions()
    wanted.binary_location = tool("chromium")
    # Root may not use the sandbox, and /dev/shm is small in containers.
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"window-size={WIDTH},1000"):
        wanted.add_argument(f"--{word}")
    for word in (f"user-data-dir={folder / 'profile'}", *options):
        wanted.add_argument(f"--{word}")
    wanted.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=wanted, service=webdriver.ChromeService(tool("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """:ivar driver: selenium's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> list[str]:
        """Open a file; what was requested for it."""
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # what was before
        self.driver.get(page.as_uri())
        return self.requests()

    def requests(self) -> list[str]:
        """The addresses that were asked for since this was last called, but for what the browser's own pages ask."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and not message["params"]["documentURL"].startswith("chrome:")
        ]

    def complaints(self) -> list[str]:
        """What the console says: errors, and what the page's policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def run(self, script: str, *arguments: object) -> Any:
        """Script of the test's, which no policy of a page keeps from running."""
        return self.driver.execute_script(script, *arguments)

    def prefer(self, **features: str) -> None:
        """As if the user preferred this: ``prefers_color_scheme="dark"``."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": wanted})
