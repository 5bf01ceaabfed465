"""Take the pictures of docs/web.md: the page in Chromium, against a server of its own.

    python scripts/screenshots.py        writes docs/images/web-*.png

Needs the `test` extra, Pillow and Chromium (apt-get install chromium). The demonstration
model is fetched into the store if it is not there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DESKTOP, PHONE = {"width": 1120, "height": 700}, {"width": 390, "height": 780}
SAID = (
    ("Plan a weekend in Lisbon", "Mostly on foot, please."),
    ("What does `git rebase` do?", "It moves commits."),
)


@contextmanager
def server() -> Generator[str]:
    """The address of `exosuit serve` with the demonstration model."""
    command = [sys.executable, "-m", "exosuit", "serve", "--port", "0", "--model", "smollm2"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--log", "plain"], stderr=subprocess.PIPE, text=True,
        env=os.environ,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serves on (http://\S+);", line):
                yield found[1]
                return
        raise SystemExit("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def opened(browser: Browser, address: str, size: dict[str, int], scheme: str) -> Page:
    """The page with a drawing that is the same each time, and earlier conversations in the list."""
    context = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1.5)
    page = context.new_page()
    page.goto(address + "/web/")
    page.wait_for_selector("#model option", state="attached")
    page.evaluate(
        """async ([said, settings]) => {
        localStorage.setItem("settings", JSON.stringify(settings));
        const store = await import("./store.js");
        for (const [title, content] of said) {
            const earlier = store.fresh("smollm2", {});
            earlier.messages = [{ role: "user", content: title }, { role: "assistant", content }];
            await store.put({ ...earlier, title });
        }
    }""",
        [SAID, {"temperature": 0, "max_tokens": 220}],
    )
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    return page


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#stop:visible")
    page.wait_for_selector("#send:visible", timeout=60_000)


def shoot(page: Page, name: str) -> None:
    path = IMAGES / f"web-{name}.png"
    page.screenshot(path=path)
    _shrink(path)
    print(json.dumps({"image": str(path.name), "bytes": path.stat().st_size}))


def _shrink(path: Path) -> None:
    """Fewer colours: flat areas and text need no more than a palette."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with server() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = opened(browser, address, DESKTOP, "light")
        ask(page, "Write a Python function that adds two numbers, and explain it in a short list.")
        page.mouse.move(5, 300)
        shoot(page, "chat-light")
        page.keyboard.press("Alt+KeyP")
        page.fill("#settings [name=system]", "You are a patient teacher. Answer in two sentences.")
        shoot(page, "settings")
        dark = opened(browser, address, DESKTOP, "dark")
        ask(dark, "Why is the sky blue?")
        dark.mouse.move(5, 300)
        shoot(dark, "chat-dark")
        dark.fill("#prompt", "Tell me more about light.")
        dark.keyboard.press("Enter")
        dark.keyboard.press("Alt+Digit2")
        dark.wait_for_timeout(4000)
        shoot(dark, "server")
        phone = opened(browser, address, PHONE, "light")
        ask(phone, "Write a haiku about a river.")
        shoot(phone, "phone")
        phone.click("#menu")
        phone.wait_for_timeout(400)
        shoot(phone, "phone-menu")
        browser.close()


if __name__ == "__main__":
    main()
