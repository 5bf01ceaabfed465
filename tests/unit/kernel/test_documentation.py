"""The examples of docs/kernel-language.md, run in order as one program."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

from exosuit.kernel import dots, language, workgroup

PAGE = Path(__file__).parents[3] / "docs" / "kernel-language.md"


def test_examples(run):
    text = PAGE.read_text()
    blocks = [(m.start(1), m[1]) for m in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) == 5
    names: dict[str, object] = {"run": run, "__name__": "kernel_language_examples"}
    for start, block in blocks:
        # Errors show the page's own line.
        line = text.count("\n", 0, start)
        linecache.cache[str(PAGE)] = (len(text), None, text.splitlines(True), str(PAGE))
        exec(compile("\n" * line + block, str(PAGE), "exec"), names)


def test_every_word_is_on_the_page():
    text = PAGE.read_text()
    words = {*language.__all__, *workgroup.__all__, *dots.__all__}
    assert not [word for word in words if not re.search(rf"\b{word}\b", text)]
