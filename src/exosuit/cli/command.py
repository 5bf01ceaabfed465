"""How a command declares its arguments: the pieces that every command shares.

Parsers built here tell wrong usage as a UsageError with the nearest right word, never abbreviate
options, and show an example at the end of `--help`.
"""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from exosuit.errors import UsageError

EXIT_STATUS = "exit status: 0 success, 1 a failure that was explained, 2 wrong usage, 130 Ctrl-C"

Subparsers = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UsageErrors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            message,
            cause=" ".join(self.format_usage().split()),
            next=f"{self.prog} --help",
        )

    def refuse_unknown(self, unknown: list[str]) -> NoReturn:
        """The error for arguments that nothing took, with the nearest option."""
        options = [text for text in self._option_string_actions if text.startswith("--")]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1)
        raise UsageError(
            f"{self.prog} does not know {unknown[0]!r}",
            cause=" ".join(self.format_usage().split()),
            next=f"did you mean {near[0]}?" if near else f"{self.prog} --help",
            unknown=unknown,
            suggestion=near[0] if near else None,
        )


def add_command(
    subparsers: Subparsers[Any], name: str, help: str, example: str, *, json: bool = False
) -> Parser:
    """A parser for one command, with `--debug`, `--json` if it lists or measures, and an example.

    It leaves `arguments.command` set to `name` and `arguments.parser` to the parser.
    """
    parser: Parser = subparsers.add_parser(
        name, help=help, description=help, epilog=f"example:\n  {example}\n\n{EXIT_STATUS}"
    )
    parser.set_defaults(command=name, parser=parser, json=False)
    if json:
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document and nothing else"
        )
    parser.add_argument(
        "--debug", action="store_true", help="show Python tracebacks (EXOSUIT_DEBUG=1)"
    )
    return parser
