"""Run `exosuit bench` over several models against llama.cpp and keep what it prints.

    python benchmarks/host.py --out benchmarks/results/host.json MODEL.gguf [MODEL.gguf ...]
    python benchmarks/host.py --table benchmarks/results/host.json

The second form prints the table from the file that the first one wrote. With `--readme README.md`
either of them puts it into the README, in place of the first table with these columns. Models are
made by `benchmarks/make_model.py`; five of the 1b shape take half an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_COLUMNS = (
    "| model | threads | decode, tok/s | of memory bandwidth | llama.cpp | ratio "
    "| prefill, tok/s | of arithmetic | llama.cpp | ratio |"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--repeat", default="5")
    parser.add_argument("--generate", default="32")
    parser.add_argument("--prompt", default="512")
    parser.add_argument("--busy", default="0")
    parser.add_argument("--threads", action="append")
    arguments = parser.parse_args()
    if arguments.table:
        rows = table(json.loads(arguments.table.read_text()))
    else:
        documents: list[dict[str, Any]] = []
        for model in arguments.models:
            documents.append(measure(model, arguments))
            if arguments.out:
                text = json.dumps({"commit": commit(), "runs": documents}, indent=1)
                arguments.out.write_text(text + "\n")
        rows = table({"runs": documents})
    print(rows)
    if arguments.readme:
        arguments.readme.write_text(with_table(arguments.readme.read_text(), rows))
    return 0


def measure(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One `exosuit bench --json` in a process of its own, so that peak memory is the model's."""
    command = [
        sys.executable, "-m", "exosuit", "bench", model, "--json", "--against", "llama.cpp",
        "--repeat", arguments.repeat, "--generate", arguments.generate,
        "--prompt", arguments.prompt, "--busy", arguments.busy,
    ]  # fmt: skip
    for threads in arguments.threads or ["1", "2"]:
        command += ["--threads", threads]
    print(" ".join(command), file=sys.stderr)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def table(document: dict[str, Any]) -> str:
    """Markdown: one row for each model and number of threads."""
    lines = [_COLUMNS, "|---|---|---|---|---|---|---|---|---|---|"]
    for run in document["runs"]:
        rows = {(row["engine"], row["threads"]): row for row in run["results"]}
        for (engine, threads), ours in rows.items():
            peer = rows.get(("llama.cpp", threads))
            if engine != "exosuit" or peer is None:
                continue
            lines.append(
                f"| {run['model']} | {threads} | {ours['decode_tok_s']:.1f} "
                f"| {ours['bandwidth_share']:.0%} | {peer['decode_tok_s']:.1f} "
                f"| **{ours['decode_tok_s'] / peer['decode_tok_s']:.2f}** "
                f"| {ours['prefill_tok_s']:.0f} | {ours['arithmetic_share']:.0%} "
                f"| {peer['prefill_tok_s']:.0f} "
                f"| **{ours['prefill_tok_s'] / peer['prefill_tok_s']:.2f}** |"
            )
    return "\n".join(lines)


def with_table(page: str, rows: str) -> str:
    """The page with `rows` in place of its first table of these columns."""
    before, header, after = page.partition(_COLUMNS + "\n")
    if not header:
        raise SystemExit("the page has no table with the columns " + _COLUMNS)
    _, blank, rest = after.partition("\n\n")
    return before + rows + blank + rest


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
