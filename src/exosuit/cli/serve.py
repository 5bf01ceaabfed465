"""`exosuit serve`: the server, its installation, and its replacement without a broken answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.cli.run import whole
from exosuit.errors import RequestError, UsageError
from exosuit.settings import Settings

if TYPE_CHECKING:
    from exosuit.serve.safety import Rules
    from exosuit.serve.service import Setup

EXAMPLE = """exosuit serve                                  on http://127.0.0.1:11434
  exosuit serve --model smollm2 --keep-alive -1  loaded at once and for ever
  exosuit serve --host 0.0.0.0 --api-key @key.txt
  exosuit serve --install                        start it at every login"""


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers, "serve", "Serve models to programs that speak OpenAI, Ollama or Anthropic.",
        EXAMPLE,
    )  # fmt: skip
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=whole(0),
        default=11434,
        metavar="N",
        help="0 takes a free one (default: 11434)",
    )
    parser.add_argument("--model", metavar="MODEL", help="load it now; the default of requests")
    parser.add_argument("--device", metavar="NAME", help="see  exosuit list")
    parser.add_argument("--threads", type=whole(1), metavar="N", help="of the cpu device")
    parser.add_argument(
        "--context",
        type=whole(1),
        metavar="N",
        help="tokens of a conversation, unless a request says so",
    )
    parser.add_argument(
        "--parallel",
        type=whole(1),
        default=16,
        metavar="N",
        help="answers of one model at a time (default: 16)",
    )
    parser.add_argument(
        "--queue",
        type=whole(1),
        default=256,
        metavar="N",
        help="requests that may wait for one model (default: 256)",
    )
    parser.add_argument(
        "--keep-alive",
        default="5m",
        metavar="TIME",
        help='how long an unused model stays: "5m", 0, -1 for ever',
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help="what clients must show; @FILE reads it (EXOSUIT_API_KEY)"
    )
    parser.add_argument(
        "--without-key",
        action="store_true",
        help="with --on-network: others may use it without a key",
    )
    parser.add_argument("--on-network", action="store_true", help="see --without-key")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name of this machine that clients use; may repeat",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="a web page that may use it; may repeat",
    )
    parser.add_argument(
        "--drain",
        type=whole(0),
        default=30,
        metavar="SECONDS",
        help="how long answers may go on when it is ended (default: 30)",
    )
    parser.add_argument(
        "--log",
        choices=("auto", "json", "plain"),
        default="auto",
        help="lines of JSON, or for people (default: as stderr is)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="have the running server replaced; answers under way are finished",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="write a unit for systemd or launchd that starts it at login",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --install: only show it")
    # How a server hands over to the next one (serve.running).
    parser.add_argument("--inherit", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ready", type=int, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    words = options_of(arguments)
    if arguments.install:
        return _install(words, arguments.dry_run)
    if arguments.restart:
        return _restart(settings)
    from exosuit.serve.app import make_app
    from exosuit.serve.log import configure
    from exosuit.serve.running import Options, Running
    from exosuit.serve.service import Service

    rules = rules_of(arguments, settings)
    setup = setup_of(arguments, settings)
    options = Options(
        arguments.host, arguments.port, words, preload=arguments.model is not None,
        drain_s=arguments.drain, inherit=arguments.inherit, ready=arguments.ready,
    )  # fmt: skip
    configure(arguments.log)
    return Running(
        settings, options, lambda: Service(setup), lambda service: make_app(service, rules),
        lambda address: render.note(f"exosuit serves on {address}; Ctrl-C ends it"),
    ).run()  # fmt: skip


def rules_of(arguments: argparse.Namespace, settings: Settings) -> Rules:
    """Who may ask; UsageError for an address that is open to others without a key."""
    from exosuit.serve.safety import Rules, check_binding

    key = _key(arguments.api_key or settings.api_key)
    check_binding(
        arguments.host, has_key=bool(key), without_key=arguments.without_key,
        on_network=arguments.on_network,
    )  # fmt: skip
    return Rules(
        keys=(key,) if key else (),
        hosts=frozenset(name.lower() for name in arguments.allow_host),
        origins=frozenset(arguments.allow_origin),
    )


def setup_of(arguments: argparse.Namespace, settings: Settings) -> Setup:
    """The service that the command line describes; a model that is not here is fetched."""
    from exosuit import open_device
    from exosuit.engine.runner import DEFAULT_CONTEXT
    from exosuit.models.pull import resolve_model
    from exosuit.models.store import Store
    from exosuit.serve.findings import Findings
    from exosuit.serve.keep_alive import keep_alive_s
    from exosuit.serve.pool import Policy
    from exosuit.serve.service import Setup

    try:
        keep = keep_alive_s(arguments.keep_alive)
    except RequestError as problem:
        raise UsageError(
            f"--keep-alive {arguments.keep_alive!r} is no time", cause=problem.cause,
            next="exosuit serve --keep-alive 10m",
        ) from problem  # fmt: skip
    store = Store(settings.model_store)
    model: str | Path | None = None
    if arguments.model is not None:
        path = resolve_model(arguments.model, store, progress=render.Bar())
        inside = path.parent.parent == store.root
        model = path.parent.name if inside else path
    policy = Policy(
        parallel=arguments.parallel,
        context=arguments.context or DEFAULT_CONTEXT,
        keep_alive_s=keep,
        most_waiting=arguments.queue,
        cache=settings.cache / "programs",
        # The server that hands over may hold the card until its answers are done.
        busy_s=arguments.drain + 5.0 if arguments.inherit is not None else 0.0,
    )
    return Setup(
        store,
        device_names(arguments.device or settings.device),
        lambda name: open_device(name, settings, arguments.threads),
        policy,
        model,
        Findings(settings),
    )


def device_names(wanted: str) -> list[str]:
    """Devices to use, best first; the host last, for when all others are lost."""
    if wanted != "auto":
        return [wanted, "cpu"]
    from exosuit import list_devices

    ready = [row["device"] for row in list_devices() if row["verdict"] == "ready"]
    return [*(name for name in ready if name != "cpu"), "cpu"]


def options_of(arguments: argparse.Namespace) -> list[str]:
    """The options as words again, for whoever starts the same server: a unit, a successor."""
    words: list[str] = []
    skipped = {"install", "dry_run", "restart", "inherit", "ready", "json"}
    for action in arguments.parser._actions:
        value = getattr(arguments, action.dest, None)
        if action.dest in skipped or value in (action.default, None, []):
            continue
        option = action.option_strings[-1] if action.option_strings else ""
        values: Sequence[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        for each in values:
            words += [option] if each is True else [option, str(each)]
    return words


def _key(text: str) -> str:
    """The key itself, or the first line of the file after @."""
    if not text.startswith("@"):
        return text
    try:
        lines = Path(text[1:]).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the key file {text[1:]} cannot be read", cause=str(error),
            next="write the key into it as one line, readable for you alone",
        ) from error  # fmt: skip
    if not lines or not lines[0].strip():
        raise UsageError(
            f"the key file {text[1:]} is empty", cause="a key is the first line of it",
            next=f"python -c 'import secrets; print(secrets.token_urlsafe())' > {text[1:]}",
        )  # fmt: skip
    return lines[0].strip()


def _install(words: list[str], dry_run: bool) -> int:
    from exosuit.serve.install import installation, write

    if "--api-key" in words and not words[words.index("--api-key") + 1].startswith("@"):
        raise UsageError(
            "a key does not belong into a unit",
            cause="others could read it there and in the list of processes",
            next="--api-key @FILE reads it from a file",
        )
    found = installation(words, Path.home(), sys.platform)
    if dry_run:
        render.stream(found.text)
        render.note(f"would write {found.path}")
    else:
        render.text(f"{'wrote' if write(found) else 'unchanged'}  {found.path}")
    render.note("nothing was started; to start it now and at every login:")
    render.note(f"  {found.start}")
    render.note(f"to take new options or a new version:  {found.reload}")
    render.note(f"to end and disable it:  {found.stop}")
    return 0


def _restart(settings: Settings) -> int:
    from exosuit.serve.client import Client

    client = Client.find(settings)
    if client is None:
        raise UsageError(
            "no server is running",
            cause="there is nothing to replace",
            next="exosuit serve",
        )
    render.text(f"process {client.restart()} took over")
    return 0
