"""A real browser, if this machine has one: Chromium without a window, steered by its own options only."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.dev.processes import CHECKOUT

NAMES = ("chromium", "chromium-browser", "google-chrome")
PICTURES = CHECKOUT / ".screenshots"
"""Where the pictures are kept; git ignores it."""
DESKTOP, PHONE = (1440, 1000), (500, 1100)
"""Widths and heights; Chromium has no narrower window than 500."""
BUDGET_MS = 6000
"""How much of a page's own time passes before the picture is taken."""


class Browser:
    """Opens pages; each call is a process with an empty profile."""

    def __init__(self, program: str, profile: Path) -> None:
        self._program, self._profile = program, profile

    def dom(self, url: str) -> str:
        """Return the document as the browser has understood it."""
        return self._run(url, ["--dump-dom"])

    def picture(self, url: str, name: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Path:
        """Keep a picture of a page under a name, and return its path."""
        PICTURES.mkdir(exist_ok=True)
        file = PICTURES / f"{name}.png"
        file.unlink(missing_ok=True)
        theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        self._run(url, [f"--screenshot={file}", f"--window-size={size[0]},{size[1]}", *theme])
        return file

    def _run(self, url: str, options: Sequence[str]) -> str:
        command = [
            self._program,
            "--headless",
            "--no-sandbox",  # CI runs as root
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={self._profile}",
            "--run-all-compositor-stages-before-draw",
            f"--virtual-time-budget={BUDGET_MS}",
            *options,
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "Content Security Policy" not in done.stderr, done.stderr
        return done.stdout


def find() -> str:
    """Return the program; skip the test without one, also in CI: no wheel carries a browser, so set-up.sh cannot."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("There is no browser here: install Debian's package chromium, or put chromium on PATH.")
