"""The web page in Chromium, against a server process: a user's ways through it, and its safety."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.browser import (
    PHONE,
    WEB,
    Open,
    answers,
    ask,
    chromium,
    kept,
    tune,
    until,
    visit,
    wait_done,
)
from tests.serve.conftest import SMOLLM2, STORIES, Served, serving

from exosuit.models.store import Store
from exosuit.settings import Settings

__all__ = ["chromium", "visit"]


# Without a browser --------------------------------------------------------------------------------


def test_the_page_is_small_and_whole() -> None:
    texts = {entry.name: entry.read_text() for entry in WEB.iterdir()}
    assert sum(len(text.encode()) for text in texts.values()) < 100_000
    for name, text in texts.items():
        used = re.findall(r'(?:from|import) "\./([\w.]+)"|(?:src|href)="([\w.]+)"', text)
        assert {a or b for a, b in used} <= texts.keys(), name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), "nothing from elsewhere"
    scripts = "".join(text for name, text in texts.items() if name.endswith(".js"))
    for word in ("innerHTML =", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in scripts
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", texts["index.html"])


def test_how_it_is_served(http: httpx.Client) -> None:
    for name in ("", *(entry.name for entry in WEB.iterdir())):
        found = http.get(f"/web/{name}")
        assert found.status_code == 200, name
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        again = http.get(f"/web/{name}", headers={"if-none-match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get("/web/index.html").content == http.get("/web/").content


@pytest.mark.parametrize(
    "path",
    ["../web.py", "..%2fweb.py", "%2e%2e/web.py", "....//web.py", "C:%5cx", "no.js", "a/b.js"],
)
def test_nothing_else_is_served(http: httpx.Client, path: str) -> None:
    assert http.get(f"/web/{path}").status_code == 404


def test_browsers_are_shown_to_it_and_clients_are_not(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    found = http.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert (found.status_code, found.headers["location"]) == (307, "/web/")


def test_status_and_what_can_be_done(http: httpx.Client) -> None:
    found = http.get("/exosuit/status").json()
    assert {model["name"] for model in found["models"]} >= {SMOLLM2, STORIES}
    assert [device["name"] for device in found["devices"]] == ["cpu"]
    assert found["default_model"] == SMOLLM2
    body = {"model": STORIES, "prompt": "Once", "max_tokens": 2}
    assert http.post("/v1/completions", json=body).status_code == 200
    names = [row["name"] for row in http.get("/exosuit/status").json()["loaded"]]
    assert STORIES in names
    assert http.post("/exosuit/unload", json={"model": STORIES}).json() == {"unloaded": True}
    assert http.post("/exosuit/unload", json={"model": STORIES}).json() == {"unloaded": False}
    assert http.post("/exosuit/unload", json={"model": "none"}).status_code == 404
    placed = http.post("/exosuit/place", json={"model": STORIES, "device": "cpu"})
    assert placed.json() == {"device": "cpu"}
    refused = http.post("/exosuit/place", json={"model": STORIES, "device": "card"})
    assert refused.status_code == 400
    assert "started with cpu" in refused.json()["error"]["message"]


# In Chromium --------------------------------------------------------------------------------------


def test_a_full_chat(visit: Open, served: Served) -> None:
    page = visit()
    tune(page, system="You answer briefly.", temperature=0, max_tokens=40, seed=5)
    ask(page, "Name three colours.")
    page.wait_for_selector("#stop:visible")
    wait_done(page)
    (first,) = answers(page)
    assert first.strip()
    line = page.locator("article.assistant .line").inner_text()
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s", line), line
    ask(page, "And three animals.")
    wait_done(page)
    assert len(answers(page)) == 2

    # What the page asked is what a plain client gets.
    (conversation,) = kept(page)
    assert conversation["title"] == "Name three colours."
    assert [m["role"] for m in conversation["messages"]] == ["user", "assistant"] * 2
    body = {
        "model": SMOLLM2, "temperature": 0, "max_tokens": 40, "seed": 5,
        "messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": "Name three colours."},
        ],
    }  # fmt: skip
    plain = httpx.post(f"{served.address}/v1/chat/completions", json=body, timeout=60).json()
    assert conversation["messages"][1]["content"] == plain["choices"][0]["message"]["content"]

    # It is there again after a reload, and opened from the list.
    page.reload()
    page.click("#conversations .name")
    page.wait_for_selector("article.assistant")
    assert len(answers(page)) == 2
    page.on("dialog", lambda dialog: dialog.accept())
    page.hover("#conversations li")
    page.click("#conversations .delete")
    page.wait_for_selector(".welcome")
    assert kept(page) == []


def test_stop_retry_and_edit(visit: Open, http: httpx.Client) -> None:
    page = visit()
    tune(page, temperature=0, max_tokens=600)
    ask(page, "Tell a very long story about the sea, with many chapters.")
    until(page, "document.querySelector('.assistant .body').innerText.length > 60")
    page.keyboard.press("Escape")
    wait_done(page)
    assert "stopped" in page.locator("article.assistant .line").inner_text()
    stopped = answers(page)[0]
    page.wait_for_timeout(300)
    assert answers(page)[0] == stopped
    assert http.get("/exosuit/status").json()["active"] == 0, "the work ends with the stream"

    tune(page, temperature=0, max_tokens=12)
    page.click("article.assistant >> text=Retry")
    wait_done(page)
    assert len(answers(page)) == 1
    assert "longest answer" in page.locator("article.assistant .line").inner_text()

    page.focus("#prompt")
    page.keyboard.press("ArrowUp")
    editor = page.locator(".editor")
    assert editor.input_value().startswith("Tell a very long story")
    editor.press("Escape")
    assert page.locator(".editor").count() == 0
    page.keyboard.press("ArrowUp")
    page.locator(".editor").fill("Say hello.")
    page.locator(".editor").press("Enter")
    wait_done(page)
    assert page.locator("article.user .body").all_inner_texts() == ["Say hello."]
    assert len(answers(page)) == 1
    (conversation,) = kept(page)
    assert conversation["messages"][0]["content"] == "Say hello."


def test_an_answer_goes_on_while_another_chat_is_looked_at(visit: Open) -> None:
    page = visit()
    tune(page, temperature=0, max_tokens=80)
    ask(page, "Count from one to fifty in words.")
    page.wait_for_selector("#stop:visible")
    page.keyboard.press("Alt+KeyN")
    page.wait_for_selector(".welcome")
    assert page.is_visible("#send")
    until(
        page,
        "import('./store.js').then((s) => s.all()).then(([c]) => Boolean(c?.messages[1]?.stats))",
    )
    page.click("#conversations .name")
    page.wait_for_selector("article.assistant")
    (conversation,) = kept(page)
    assert len(conversation["messages"][1]["content"]) > 20
    assert answers(page)[0][:10] == conversation["messages"][1]["content"].strip()[:10]


def test_dark_and_light(visit: Open) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = visit(color_scheme="light").evaluate(background)
    page = visit(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: light"
    assert page.evaluate(background) == light
    page.reload()
    page.wait_for_selector(".welcome")
    assert page.evaluate(background) == light
    page.click("#theme")
    assert page.evaluate(background) == dark
    for scheme in ("light", "dark"):
        assert contrast(visit(color_scheme=scheme)) >= 4.5


def contrast(page: Any) -> float:
    """The least of the page's text colours against what they stand on (WCAG 2, 1.4.3)."""
    return page.evaluate(
        """() => {
        const light = (text) => {
            const canvas = document.createElement("canvas").getContext("2d");
            canvas.fillStyle = text;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
                .map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
        };
        const style = getComputedStyle(document.documentElement);
        const of = (name) => light(style.getPropertyValue(name));
        const pairs = [["--text", "--back"], ["--text", "--bubble"], ["--quiet", "--back"],
            ["--quiet", "--side"], ["--quiet", "--code"], ["--error", "--back"],
            ["--on-accent", "--accent"], ["--accent", "--raised"], ["--comment", "--code"],
            ["--string", "--code"], ["--number", "--code"], ["--word", "--code"]];
        return Math.min(...pairs.map(([a, b]) => {
            const [low, high] = [of(a), of(b)].sort((x, y) => x - y);
            return (high + 0.05) / (low + 0.05);
        }));
    }"""
    )


def test_on_a_phone(visit: Open) -> None:
    page = visit(PHONE, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    assert not page.is_visible("#new")
    page.tap("#menu")
    page.wait_for_selector("#new:visible")
    page.tap("#to-status")
    page.wait_for_selector("#status .tile")
    page.wait_for_selector("#new", state="hidden")
    assert page.evaluate(fits)
    page.goto(page.url.replace("#status", "#chat"))
    tune(page, temperature=0, max_tokens=30)
    ask(page, "Say something long without spaces: " + "x" * 300)
    wait_done(page)
    assert page.evaluate(fits)
    box = page.locator("#send").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= PHONE["height"]


def test_the_keyboard_alone(visit: Open) -> None:
    page = visit()
    page.keyboard.press("Alt+Digit2")
    page.wait_for_selector("#status .tile")
    page.keyboard.press("Alt+Digit1")
    page.wait_for_selector("#prompt:focus")
    seen: list[str] = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"new", "theme", "model", "tune", "send"} <= set(seen), seen
    names = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, textarea, a")]
        .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim() || e.title))
        .map((e) => e.outerHTML)"""
    )
    assert names == [], "every control has a name"


def test_the_server_view(visit: Open, http: httpx.Client) -> None:
    for loaded in http.get("/exosuit/status").json()["loaded"]:  # by other tests of this server
        http.post("/exosuit/unload", json={"model": loaded["name"]})
    page = visit()
    tune(page, max_tokens=60)
    ask(page, "Hello!")
    wait_done(page)
    page.keyboard.press("Alt+Digit2")
    page.wait_for_selector("#status .tile")
    text = page.inner_text("#status")
    for wanted in ("tokens/s", "Devices", "cpu", "Loaded models", SMOLLM2, "Doctor", STORIES):
        assert wanted in text
    page.click(f'[data-unload="{SMOLLM2}"]')
    page.wait_for_selector(f'[data-unload="{SMOLLM2}"]', state="detached")
    assert "None. A model is loaded" in page.inner_text("#status")


def test_a_choice_of_devices_and_a_model_that_loads(visit: Open, http: httpx.Client) -> None:
    """A status with a second device and a model half loaded, put in the server's place."""
    found = http.get("/exosuit/status").json()
    card = {**found["devices"][0], "name": "card:0", "link": {"reads": 12, "bytes": 3456}}
    loading = {
        "name": SMOLLM2, "device": "", "device_bytes": 0, "context": 4096, "parallel": 16,
        "progress": 0.42, "expires_at": None, "active": 0, "waiting": 0,
    }  # fmt: skip
    status = {**found, "devices": [*found["devices"], card], "loaded": [loading]}
    page = visit()
    page.route("**/exosuit/status", lambda route: route.fulfill(json=status))
    placed: list[Any] = []

    def place(route: Any) -> None:
        placed.append(route.request.post_data_json)
        route.fulfill(json={"device": "card:0"})

    page.route("**/exosuit/place", place)
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.keyboard.press("Alt+Digit2")
    page.wait_for_selector("#device option >> nth=1", state="attached")
    text = page.inner_text("#status")
    assert "link: reads 12 · bytes 3,456" in text
    assert "loading, 42 %" in text
    page.keyboard.press("Alt+Digit1")
    page.select_option("#device", "card:0")
    until(page, "document.querySelector('#said').textContent.includes('card:0')")
    assert placed == [{"model": SMOLLM2, "device": "card:0"}]
    ask(page, "Hello")
    page.wait_for_selector("article .line:has-text('loading smollm2, 42 %')")
    page.keyboard.press("Escape")
    wait_done(page)
    assert "stopped" in page.inner_text("article.assistant .line")


def test_only_what_is_new_is_read_aloud(visit: Open) -> None:
    """The elements of earlier messages stay the same while a conversation goes on."""
    page = visit()
    tune(page, temperature=0, max_tokens=8)
    ask(page, "Hello")
    wait_done(page)
    page.evaluate("[...document.querySelectorAll('article')].forEach((e, k) => (e.mark = k))")
    ask(page, "And again")
    assert page.get_attribute("#messages", "aria-busy") == "true"
    wait_done(page)
    assert page.get_attribute("#messages", "aria-busy") == "false"
    marks = page.evaluate("[...document.querySelectorAll('article')].map((e) => e.mark ?? null)")
    assert marks == [0, 1, None, None]


def test_a_browser_that_keeps_nothing(visit: Open, served: Served) -> None:
    page = visit()
    page.context.add_init_script(
        """for (const name of ["localStorage", "indexedDB"]) {
            Object.defineProperty(window, name, { get() { throw new DOMException("no"); } });
        }"""
    )
    page.reload()
    page.wait_for_selector(".welcome")
    tune(page, temperature=0, max_tokens=8)
    ask(page, "Hello")
    wait_done(page)
    page.click("#theme")
    page.wait_for_selector("#conversations .name")
    assert page.inner_text("#theme") == "Theme: light"
    assert answers(page)[0].strip()


EVIL = """Look: <img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>

[click](javascript:window.hacked=1) [data](data:text/html,x) ![see](https://example.org/t.png)

```html
<script>window.hacked=1</script>
```

| a | b |
|---|---|
| <b>1</b> | `2` |

- one
  - two **bold**
1. <iframe src="https://example.org"></iframe>
"""


def test_what_a_model_writes_is_text(visit: Open) -> None:
    page = visit()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate(
        """async (text) => {
        const { show } = await import("./markdown.js");
        const place = document.createElement("div");
        place.id = "shown";
        document.querySelector("#messages").replaceChildren(place);
        for (let end = 0; end <= text.length; end += 7) show(place, text.slice(0, end));
        show(place, text);
    }""",
        EVIL,
    )
    shown = page.locator("#shown")
    assert page.evaluate("window.hacked") is None
    for tag in ("img", "script", "iframe", "b"):
        assert shown.locator(tag).count() == 0
    assert [a.get_attribute("href") for a in shown.locator("a").all()] == [
        "https://example.org/t.png",
        "https://example.org/",
    ]
    assert shown.locator("pre code").inner_text() == "<script>window.hacked=1</script>"
    assert shown.locator("td").all_inner_texts() == ["<b>1</b>", "2"]
    assert shown.locator("ul ul li").inner_text() == "two bold"
    assert shown.locator("strong").count() == 1
    assert not [url for url in requests if "example.org" in url]


GROWING = """# T

A *b* **c** `d`.
line

- x
- y

  more

```py
def f():

  pass
```

> q
> r

1) p
2) q

end ~~old~~ https://example.org/a_b."""


def test_a_growing_answer_looks_as_the_whole_does(visit: Open) -> None:
    """Whatever the pieces, the elements at the end are those of the whole text drawn at once."""
    page = visit()
    text = GROWING
    same = page.evaluate(
        """async (text) => {
        const { show } = await import("./markdown.js");
        const whole = document.createElement("div");
        show(whole, text);
        const found = [];
        for (const step of [1, 2, 3, 5, 11]) {
            const grown = document.createElement("div");
            for (let end = 0; end < text.length; end += step) show(grown, text.slice(0, end));
            show(grown, text);
            found.push(grown.innerHTML === whole.innerHTML);
        }
        return [found, whole.innerHTML];
    }""",
        text,
    )
    assert same[0] == [True] * 5
    for piece in (
        *("<h3>T</h3>", "<em>b</em>", "<strong>c</strong>", "<code>d</code>", "<del>old</del>"),
        *("<blockquote>", '<ol start="1">', 'href="https://example.org/a_b"'),
    ):
        assert piece in same[1], same[1]


def test_a_server_with_a_key(shared: Path, visit: Open, tmp_path: Path) -> None:
    store = Store(Settings(home=str(tmp_path)).model_store)
    store.add(shared / "models/stories260k/stories260K-q8_0.gguf", STORIES, link=True)
    with serving(tmp_path, "--model", STORIES, "--api-key", "sesame") as server:
        page = visit(address=server.address)
        page.wait_for_selector("#key[open]")
        page.fill("#key input", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        assert page.input_value("#model") == STORIES


def test_errors_are_told_where_they_happen(visit: Open) -> None:
    page = visit()
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=503,
            content_type="application/json",
            body=json.dumps({"error": {"message": "all places are taken; ask again in 3 s"}}),
        ),
        times=1,
    )
    tune(page, max_tokens=5)
    ask(page, "Hello")
    page.wait_for_selector("article .error")
    assert "all places are taken" in page.inner_text("article .error")
    page.click("article.assistant >> text=Retry")
    wait_done(page)
    assert page.locator("article .error").count() == 0
    assert answers(page)[0].strip()
