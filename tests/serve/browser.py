"""The web page in Chromium: a browser, a visit, and what a visitor does."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.serve.conftest import Served

CHROMIUM = Path("/usr/bin/chromium")
WEB = files("exosuit.serve").joinpath("web")
DESKTOP = {"width": 1180, "height": 760}
PHONE = {"width": 390, "height": 780}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Generator[Any, None, None]:
    """A browser, closed with this file's tests: while it is up an event loop is running in this
    thread, and `asyncio.run` of other files' tests would refuse to work.
    """
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, served: Served) -> Generator[Open, None, None]:
    """`visit(size, **options)`: the page in a browser without a past; no error may come."""
    contexts: list[Any] = []
    problems: list[str] = []

    def note(message: Any) -> None:
        if message.type in ("error", "warning"):
            problems.append(message.text)

    def open_page(size: dict[str, int] = DESKTOP, address: str = "", **options: Any) -> Any:
        context = chromium.new_context(viewport=size, **options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((address or served.address) + "/")
        page.wait_for_selector("#prompt")
        page.wait_for_selector(".welcome")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # The browser's own note of a refused request is no problem of the page.
    assert not [text for text in problems if "Failed to load resource" not in text]


def tune(page: Any, **values: Any) -> None:
    page.keyboard.press("Alt+KeyP")
    for name, value in values.items():
        page.fill(f"#settings [name={name}]", str(value))
    page.click("#settings button[value=save]")


def ask(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def wait_done(page: Any) -> None:
    page.wait_for_selector("#send:visible")


def until(page: Any, what: str) -> None:
    """Wait until an expression holds; `wait_for_function` would need what the policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(what):
        assert time.monotonic() < deadline, what
        page.wait_for_timeout(30)


def answers(page: Any) -> list[str]:
    return page.locator("article.assistant .body").all_inner_texts()


def kept(page: Any) -> list[dict[str, Any]]:
    """The conversations in the browser's own store."""
    return page.evaluate("import('./store.js').then((store) => store.all())")
