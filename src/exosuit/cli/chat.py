"""The chat of `exosuit run`: reads lines, shows answers, obeys `/` commands and Ctrl-C."""

from __future__ import annotations

import importlib.util
import re
import signal
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from exosuit.cli import render
from exosuit.engine.request import Event, Generation
from exosuit.engine.session import Chat, Continuation
from exosuit.errors import RequestError, TemplateFailed

if TYPE_CHECKING:
    from exosuit.cli.run import Model

HELP = '''/clear          forget the conversation
/system TEXT    what the model is told first; alone: show it, with "": none
/bye            leave (Ctrl-D too)
"""             begins and ends a message of several lines
Ctrl-C          interrupts the answer; twice at the prompt leaves'''


class CtrlC:
    """Inside it the first Ctrl-C only sets `pressed`; a second one interrupts as ever."""

    def __init__(self) -> None:
        self.pressed = False

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)


def show(events: Generator[Event, None, Generation], *, quiet: bool = False) -> Generation:
    """Print an answer as it comes, ending its last line; returns what it was."""
    ends_line = True
    while True:
        try:
            event = next(events)
        except StopIteration as done:
            if not (quiet or ends_line):
                render.stream("\n")
            generation: Generation = done.value
            return generation
        if event.text and not quiet:
            render.stream(event.text)
            ends_line = event.text.endswith("\n")


class Conversation:
    """Lines in, answers out.

    read  shows a prompt and gives a line, as `input` does
    told  is given each answer when it is complete
    """

    def __init__(
        self,
        partner: Chat | Continuation,
        context: int,
        read: Callable[[str], str],
        told: Callable[[Generation], None] | None = None,
    ) -> None:
        self._partner, self._context, self._read, self._told = partner, context, read, told

    def run(self) -> int:
        """Until /bye or the end of the input; KeyboardInterrupt after two Ctrl-C at the prompt."""
        interrupted = False
        while True:
            try:
                text = self._message()
            except EOFError:
                render.stream("\n")
                return 0
            except KeyboardInterrupt:
                render.stream("\n")
                if interrupted:
                    raise
                interrupted = True
                render.note("Ctrl-C again, Ctrl-D or /bye leaves")
                continue
            interrupted = False
            command = re.fullmatch(r"/([a-z?]+)(?:\s+(.*))?", text.strip(), re.DOTALL)
            if command is None:
                if text.strip():
                    self._answer(text)
            elif not self._obey(command[1], command[2]):
                return 0

    def _message(self) -> str:
        """One line, or what stands between two \"\"\"."""
        line = self._read(">>> ")
        if not line.lstrip().startswith('"""'):
            return line
        text = line.lstrip()[3:]
        while not text.rstrip().endswith('"""'):
            text += "\n" + self._read("... ")
        return text.rstrip()[:-3].strip("\n")

    def _answer(self, text: str) -> None:
        try:
            with CtrlC() as ctrl_c:
                generation = show(self._partner.ask(text, lambda: ctrl_c.pressed))
        except (RequestError, TemplateFailed) as problem:
            render.error(problem)
            return
        if generation.context_full:
            render.note(
                f"the context of {self._context} tokens is full: the answer ends here."
                " /clear starts anew; --context takes a larger one"
            )
        if self._told is not None:
            self._told(generation)

    def _obey(self, command: str, rest: str | None) -> bool:
        """Do what a `/` command says; False to leave."""
        if command in ("bye", "exit", "quit"):
            return False
        if command in ("help", "?"):
            for line in HELP.splitlines():
                render.note(line)
        elif command not in ("clear", "system"):
            render.note(f"there is no /{command}; /help lists what there is")
        elif isinstance(self._partner, Continuation):
            render.note(f"/{command} has no meaning here: every text stands alone")
        elif command == "clear":
            self._partner.clear()
            render.note("forgotten")
        else:
            if rest is not None:
                self._partner.system = None if rest == '""' else rest
            render.note(f"system: {self._partner.system or '(none of yours)'}")
        return True


def converse(
    loaded: Model,
    partner: Chat | Continuation,
    told: Callable[[Generation], None] | None = None,
) -> int:
    """A chat on the terminal."""
    from exosuit.cli.run import device_of

    if importlib.util.find_spec("readline") is not None:
        importlib.import_module("readline")  # gives `input` its editing and its history
    where = device_of(loaded) or "the running server"
    render.note(f"{loaded.name} on {where}; /help for help")
    return Conversation(partner, loaded.engine.context, input, told).run()
