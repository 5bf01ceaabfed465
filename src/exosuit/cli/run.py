"""`exosuit run [MODEL] [PROMPT]`: one answer, streamed; without a prompt a chat."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import UsageError
from exosuit.settings import Settings
from exosuit.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from exosuit.driver.boot import BootStep
    from exosuit.engine.batch import Sampling
    from exosuit.engine.open import LoadedModel
    from exosuit.engine.request import Generation
    from exosuit.engine.session import Chat, Continuation
    from exosuit.serve.remote import RemoteModel

    Model = LoadedModel | RemoteModel

EXAMPLE = """exosuit run                                    a chat with the demonstration model
  exosuit run smollm2 "Why is the sky blue?" --max-tokens 100
  exosuit run model.gguf < question.txt"""


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers, "run", "Answer PROMPT with a model; without PROMPT chat with it.", EXAMPLE,
        json=True,
    )  # fmt: skip
    parser.add_argument("model", nargs="?", metavar="MODEL", help="path, store name or known name")
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="- or a pipe: read from standard input"
    )
    parser.add_argument("--device", metavar="NAME", help="see  exosuit list")
    parser.add_argument("--threads", type=whole(1), metavar="N", help="of the cpu device")
    parser.add_argument("--context", type=whole(1), metavar="N", help="tokens of the whole chat")
    parser.add_argument("--max-tokens", type=whole(1), metavar="N", help="tokens of an answer")
    parser.add_argument(
        "--temperature", type=_real(0), default=0.8, metavar="T",
        help="how freely to choose: 0 takes the likeliest token (default: 0.8)",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", type=whole(0), default=40, metavar="N",
        help="of the N likeliest tokens; 0 of all (default: 40)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=_real(0, 1), default=0.95, metavar="P",
        help="of the likeliest that have this probability together (default: 0.95)",
    )  # fmt: skip
    parser.add_argument(
        "--min-p", type=_real(0, 1), default=0.05, metavar="P",
        help="of those with this share of the likeliest one's probability (default: 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=whole(0), metavar="N", help="the same again (default: another every time)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before it; may repeat"
    )
    parser.add_argument("--system", metavar="TEXT", help="what the model is told first")
    parser.add_argument("--raw", action="store_true", help="continue PROMPT; no chat template")
    parser.add_argument(
        "--explain", action="store_true", help="tell where memory and time go, on stderr"
    )


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.raw and arguments.system is not None:
        raise UsageError(
            "--system does not go with --raw",
            cause="a system message needs the chat template, which --raw leaves out",
            next="write it into the prompt, or leave out --raw",
        )
    prompt = read_prompt(arguments.prompt, keep_end=arguments.raw)
    if prompt is None and arguments.json:
        raise UsageError(
            "--json needs a PROMPT",
            cause="a chat is no one document",
            next='exosuit run smollm2 "Hello" --json',
        )
    sampling = _sampling(arguments)
    loaded = open_for(arguments, settings)
    try:
        if arguments.explain:
            explain_memory(loaded)
        if prompt is None:
            from exosuit.cli.chat import converse

            told = explain_speed if arguments.explain else None
            return converse(loaded, partner_for(loaded, arguments, sampling), told)
        return _answer(prompt, loaded, arguments, sampling)
    finally:
        loaded.close()


# The prompt -------------------------------------------------------------------------------


def read_prompt(argument: str | None, *, keep_end: bool) -> str | None:
    """The prompt from the command line or a pipe; None if there is a terminal to chat on.

    keep_end  a pipe's last line break belongs to the prompt
    Raises UsageError if it is empty or no UTF-8.
    """
    if argument is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    if argument not in (None, "-"):
        data = os.fsencode(argument)
    else:
        data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise UsageError(
            f"the prompt is not valid UTF-8 (byte {problem.start})",
            cause="it is binary, or text in another encoding",
            next="convert it first, for example with  iconv -t UTF-8",
            offset=problem.start,
        ) from problem
    text = text if keep_end or argument not in (None, "-") else text.removesuffix("\n")
    if not text:
        raise UsageError(
            "the prompt is empty",
            cause="neither the command line nor standard input holds one",
            next='exosuit run smollm2 "Why is the sky blue?"',
        )
    return text


def _sampling(arguments: argparse.Namespace) -> Sampling:
    from exosuit.engine.batch import Sampling

    seed = int.from_bytes(os.urandom(4)) if arguments.seed is None else arguments.seed
    return Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=seed,
    )


# The model --------------------------------------------------------------------------------


def open_for(arguments: argparse.Namespace, settings: Settings) -> Model:
    """The model and device that the command line names, with progress if it takes long.

    If a server is up, its model, unless the command line says where to compute.
    """
    from exosuit import open_device
    from exosuit.engine.open import open_model
    from exosuit.models.pull import resolve_model
    from exosuit.models.store import Store

    path = resolve_model(arguments.model, Store(settings.model_store), progress=render.Bar())
    if not (arguments.device or arguments.threads):
        from exosuit.serve.remote import served

        remote = served(path, settings, arguments.context)
        if remote is not None:
            return remote
    device = open_device(
        arguments.device or settings.device, settings, arguments.threads, _Starting().tell
    )
    with _Loading(f"loading {path.name}") as loading:
        loaded = open_model(
            path,
            device,
            settings.cache / "programs",
            context=arguments.context,
            progress=loading.update,
        )
    if arguments.context and loaded.engine.context < arguments.context:
        render.note(
            f"the context is {loaded.engine.context} tokens: the model was trained for no more"
        )
    return loaded


class _Starting:
    """Tells of the steps of a card's boot once that takes longer than a second."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def tell(self, step: BootStep, index: int, count: int) -> None:
        if time.monotonic() - self._started > 1:
            render.note(f"starting the card, {index + 1} of {count}: {step.why}")


class _Loading:
    """Tells of a load that takes longer than a second: a bar, or a line while compiling."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._started = time.monotonic()
        self._bar: render.Bar | None = None
        self._timer = threading.Timer(1.0, self._slow)
        self._timer.daemon = True

    def update(self, done_bytes: int, total_bytes: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < 1 or done_bytes >= total_bytes:
                return
            self._bar = render.Bar()
            self._bar.start(self._label, total_bytes, done_bytes)
        self._bar.update(done_bytes)

    def _slow(self) -> None:
        if self._bar is None:
            render.note(f"{self._label}; a first run compiles its kernels too")

    def __enter__(self) -> _Loading:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._bar is not None:
            self._bar.finish()


# The answer -------------------------------------------------------------------------------


def partner_for(
    loaded: Model, arguments: argparse.Namespace, sampling: Sampling
) -> Chat | Continuation:
    """Who answers: a chat through the file's template, or one who continues texts."""
    from exosuit.engine.session import Chat, Continuation

    stop = tuple(arguments.stop)
    if loaded.template is not None and not arguments.raw:
        return Chat(
            loaded.engine, loaded.tokenizer, loaded.template, system=arguments.system,
            sampling=sampling, max_tokens=arguments.max_tokens, stop=stop,
        )  # fmt: skip
    if not arguments.raw:
        if arguments.system is not None:
            raise UsageError(
                "--system needs a chat template",
                cause=f"{loaded.path.name} has none: it may be a base model, which continues text",
                next="write it into the prompt",
            )
        render.note(f"{loaded.path.name} has no chat template: it continues the text")
    return Continuation(
        loaded.engine, loaded.tokenizer, sampling=sampling, max_tokens=arguments.max_tokens,
        stop=stop,
    )  # fmt: skip


def _answer(prompt: str, loaded: Model, arguments: argparse.Namespace, sampling: Sampling) -> int:
    from exosuit.cli.chat import CtrlC, show

    partner = partner_for(loaded, arguments, sampling)
    with CtrlC() as ctrl_c:
        generation = show(partner.ask(prompt, lambda: ctrl_c.pressed), quiet=arguments.json)
    if arguments.json:
        render.document(document(loaded, generation))
    if generation.context_full:
        render.note(
            f"the context of {loaded.engine.context} tokens is full; --context takes a larger one"
        )
    if arguments.explain:
        explain_speed(generation)
    return 130 if generation.finish_reason == "cancelled" else 0


def document(loaded: Model, generation: Generation) -> dict[str, Any]:
    """What `--json` prints; rates are null where there was too little to measure."""
    from exosuit.serve.remote import RemoteModel

    usage = generation.usage
    first = generation.first_token_s
    load_s = compile_s = 0.0  # a server's model is there already
    if not isinstance(loaded, RemoteModel):
        load_s, compile_s = loaded.timings.load_s, loaded.timings.compile_s
    return {
        "text": generation.text,
        "tokens": generation.tokens,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "finish_reason": generation.finish_reason,
        "device": device_of(loaded),
        "model": loaded.name,
        "seed": generation.request.sampling.seed,
        "timings": {
            "load_s": round(load_s, 4),
            "compile_s": round(compile_s, 4),
            "time_to_first_token_s": _rounded(
                None if first is None else first - generation.submitted_s
            ),
            "prefill_tok_s": _rounded(generation.prefill_tok_s),
            "decode_tok_s": _rounded(generation.decode_tok_s),
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def device_of(loaded: Model) -> str:
    """The device's name; "" before a server has answered."""
    from exosuit.serve.remote import RemoteModel

    return loaded.engine.device if isinstance(loaded, RemoteModel) else loaded.device.name


def explain_memory(loaded: Model) -> None:
    """Where it runs, what it holds, how long it took to be ready; on stderr."""
    from exosuit.devices import explain_device
    from exosuit.serve.remote import RemoteModel

    if isinstance(loaded, RemoteModel):
        render.note(f"model      {loaded.name}, {loaded.path}")
        render.note("server     answers are made by the running server; see  exosuit ps")
        return
    report, device = loaded.report, loaded.device
    render.note(f"device     {device.name}: {device.target}, {device.parallel_groups} at a time")
    for line in explain_device(device):
        render.note(f"           {line}")
    render.note(f"model      {loaded.name}, {loaded.path}")
    render.note(f"weights    {human_bytes(report.weight_bytes)}")
    render.note(
        f"kv cache   {human_bytes(report.cache_bytes)} for {loaded.engine.context} tokens,"
        " touched as they come"
    )
    render.note(f"workspace  {human_bytes(report.workspace_bytes)}")
    for line in report.notes:
        render.note(f"           {line}")
    render.note(
        f"ready      loaded in {human_seconds(loaded.timings.load_s)},"
        f" kernels in {human_seconds(loaded.timings.compile_s)}"
    )


def explain_speed(generation: Generation) -> None:
    """What the answer took; on stderr."""
    usage, first = generation.usage, generation.first_token_s
    render.note(
        f"prompt     {usage.prompt_tokens} tokens, {usage.reused_tokens} of them from the cache"
        + _rate(generation.prefill_tok_s)
    )
    if first is not None:
        render.note(f"first      after {human_seconds(first - generation.submitted_s)}")
    render.note(
        f"answer     {usage.completion_tokens} tokens{_rate(generation.decode_tok_s)},"
        f" ended by {generation.finish_reason}, seed {generation.request.sampling.seed}"
    )


def _rate(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f", {tokens_per_second:.1f} a second"


# Numbers on the command line --------------------------------------------------------------


def whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
        return int(text)

    return convert


def _real(least: float, most: float = 100.0) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:  # never true of "nan"
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
        return value

    return convert
