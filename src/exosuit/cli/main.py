"""`exosuit COMMAND ...`: finds the command's module, runs it, and turns every end into a status.

The contract of a command module, `exosuit.cli.NAME`:

    def register(subparsers) -> None       declare the command(s) through `command.add_command`
    def run(arguments, settings) -> int    do it; `arguments.command` says which; 0 is success

and one line in `COMMANDS` below. A module is imported only when its command is typed, and imports
what is heavy inside `run`, so that `--help` stays instant. `run` prints results through
`cli.render`, raises ExosuitError for what a user can mend, and lets KeyboardInterrupt pass.
Statuses: 0 success, 1 an explained failure, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from exosuit.cli import render
from exosuit.cli.command import EXIT_STATUS, Parser
from exosuit.errors import ExosuitError, UsageError
from exosuit.settings import Settings

# command: (module in exosuit.cli, help), in the order of `exosuit --help`
COMMANDS = {
    "run": ("run", "one answer, or a chat"),
    "bench": ("bench", "measure a model, as a share of the machine's limits"),
    "list": ("devices", "the devices of this machine"),
    "doctor": ("doctor", "check every layer between this machine and its card"),
    "setup": ("setup", "what this machine needs once"),
    "plan": ("plan", "does a model fit, where does it go, how fast will it be"),
    "models": ("models", "the models in the store"),
    "pull": ("models", "fetch a model into the store"),
    "import": ("models", "use the models of Ollama and LM Studio where they lie"),
    "show": ("models", "what a model is made of"),
    "rm": ("models", "remove models from the store"),
    "serve": ("serve", "serve models to other programs"),
    "ps": ("ps", "what the server has loaded"),
    "stop": ("ps", "unload a model, or end the server"),
    "kernels": ("kernels", "list, compile and inspect kernels"),
    "softcard": ("softcard", "serve a software card"),
    "trace": ("trace", "record, show, replay and compare bus accesses"),
}


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Run one command line; returns the exit status and never raises what a user can cause."""
    words = list(sys.argv[1:] if argv is None else argv)
    settings = settings or Settings.from_environment()
    debug = settings.debug == "1" or "--debug" in words
    try:
        return _run(words, settings)
    except ExosuitError as problem:
        if debug:
            render.traceback()
        render.error(problem)
        return problem.exit_status
    except KeyboardInterrupt:
        render.note("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output left; nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:
        if debug:
            render.traceback()
        render.error(
            ExosuitError(
                f"exosuit itself failed: {type(problem).__name__}: {problem}",
                cause="a mistake in exosuit",
                next="run it again with --debug and report what it prints",
            )
        )
        return 1


def _run(words: list[str], settings: Settings) -> int:
    parser, commands = _parser(), list(COMMANDS)
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        near = difflib.get_close_matches(name, commands, n=1)
        raise UsageError(
            f"there is no command {name!r}",
            cause=f"the commands are {', '.join(commands)}",
            next=f"did you mean exosuit {near[0]}?" if near else "exosuit --help",
            suggestion=near[0] if near else None,
        )
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for command in commands:
        if name is None:
            subparsers.add_parser(command, help=COMMANDS[command][1])
    module: Any = None
    if name is not None:
        module = import_module(f"exosuit.cli.{COMMANDS[name][0]}")
        module.register(subparsers)
    try:
        arguments, unknown = parser.parse_known_args(words)
    except SystemExit as done:  # --help prints and leaves
        return int(done.code or 0)
    if name is None:
        if unknown:
            parser.refuse_unknown(unknown)
        if arguments.version:
            from importlib.metadata import version

            render.text(f"exosuit {version('exosuit')}")
        else:
            parser.print_help()
        return 0
    if unknown:
        arguments.parser.refuse_unknown(unknown)
    status: int = module.run(arguments, settings)
    sys.stdout.flush()
    return status


def _parser() -> Parser:
    parser = Parser(
        prog="exosuit",
        description="Local AI on external GPUs and on the host.",
        epilog="example:\n  exosuit pull smollm2\n\n"
        f"exosuit COMMAND --help tells more\n{EXIT_STATUS}",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser
