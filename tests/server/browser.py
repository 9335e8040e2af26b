"""Real Chromium, headless, driven by Playwright; a page that may talk to our server only and may not complain."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.server.support import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE = 60
"""Seconds after which something will not happen any more, however busy the machine is."""
TOASTS = """
window.toasts = [];
document.addEventListener('DOMContentLoaded', () => {
  const place = document.getElementById('toasts');
  if (place) new MutationObserver((changes) => {
    for (const change of changes) for (const line of change.addedNodes) window.toasts.push(line.textContent);
  }).observe(place, {childList: true});
});
"""
"""Messages go away after some seconds; this keeps them."""
LAPTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def playwright_or_skip() -> Any:
    """Playwright's entry; skips the module where there is no browser to drive."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed", allow_module_level=True)
    return pytest.importorskip("playwright.sync_api", reason="Chromium is not installed with Playwright to drive it")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser."""
    with playwright_or_skip().sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page of the server's, with what went wrong in it.

    Attributes:
        page: Playwright's page.
        server: The server.
        complaints: Errors and warnings on the console, and exceptions; tests end with none but those they expect.
        foreign: Requests to anybody but the server.
    """

    page: Any
    server: Server
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.add_init_script(TOASTS)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.server.url, "blob:", "data:")):
            self.foreign.append(request.url)

    def open(self, view: str = "") -> Tab:
        """Show a view: ``#/models/NAME``; the page is loaded anew, so that nothing of another view is there."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.server.url}/{view}")
        self.page.wait_for_selector("main:not([aria-busy]) h1", state="attached")
        return self

    def toast(self, text: str) -> None:
        """Wait until there is, or was, a message since the page was loaded."""
        self.until(f"window.toasts.some((text) => text.includes({json.dumps(text)}))")

    def press(self, name: str) -> None:
        """Press the button of that accessible name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def rows(self, table: str) -> list[list[str]]:
        """The texts of a table's cells."""
        rows = self.page.get_by_role("table", name=table, exact=True).locator("tbody > tr:not([hidden])")
        found: list[list[str]] = rows.evaluate_all(
            "rows => rows.map((r) => [...r.cells].map((c) => c.innerText.trim()))"
        )
        return found

    def answer(self, name: str) -> None:
        """Press the button of that name in the dialog."""
        self.page.locator("dialog[open]").get_by_role("button", name=name, exact=True).click()
        self.page.wait_for_selector("dialog", state="detached")

    def until(self, expression: str | Callable[[], object]) -> None:
        """Wait until a JavaScript expression, or a function, is true; the page's policy forbids Playwright's way."""
        end = time.monotonic() + PATIENCE
        while not (self.page.evaluate(expression) if isinstance(expression, str) else expression()):
            assert time.monotonic() < end, f"never true: {expression}"
            self.page.wait_for_timeout(20)  # events are told to listeners meanwhile

    def expect_complaint(self, text: str) -> None:
        """Wait for such a complaint; it is forgotten."""
        self.until(lambda: any(text in c for c in self.complaints))
        self.complaints = [c for c in self.complaints if text not in c]


Open = Callable[..., Tab]


@contextmanager
def tabs(browser: Any) -> Iterator[Open]:
    """``open(server, viewport=…, options of the context…)``; at the end no page may have complained."""
    contexts, opened = [], []

    def make(server: Server, **options: Any) -> Tab:
        context = browser.new_context(**{"viewport": LAPTOP, "locale": "en-GB", **options})
        contexts.append(context)
        opened.append(Tab(context.new_page(), server))
        return opened[-1]

    yield make
    for context in contexts:
        context.close()
    for tab in opened:
        assert tab.complaints == [], tab.complaints
        assert tab.foreign == [], tab.foreign


def model_files(folder: Path) -> list[str]:
    """A model's files, for a file picker."""
    return [str(p) for p in sorted(folder.iterdir())]
