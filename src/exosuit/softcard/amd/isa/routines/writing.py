"""How routines are written: a function with named parameters, and loops over active lanes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from exosuit.softcard.translation.ir import Function, Lanes


class Routine:
    """A function of the table under construction; `function` is its body."""

    def __init__(self, name: str, parameters: str, result: str = "void") -> None:
        self.name = name
        self.function = Function()
        self._parameters = parameters
        self._result = result

    def text(self) -> str:
        body = "\n".join(self.function.lines)
        head = f"define {self._result} @{self.name}({self._parameters}) nounwind"
        return f"{head} {{\nentry:\n{body}\n}}\n"

    def argument(self, kind: str, name: str, count: int = 1) -> Lanes:
        return Lanes(self.function, kind, count, f"%{name}")


@contextmanager
def each_lane(function: Function, mask: Lanes) -> Generator[Lanes]:
    """The body runs for every lane whose bit of the i32 `mask` is set; gives its number, i64.

    The body may branch, but must come together in the block in which it ends.
    """
    tag = function.name()
    head, body, latch, done = (f"{tag}.{part}" for part in ("head", "body", "latch", "done"))
    before = f"{tag}.before"
    function.jump(before)
    function.label(before)
    function.jump(head)
    function.label(head)
    following = Lanes(function, "i32", 1, f"%{tag}.next")
    rest = function.phi("i32", 1, (mask, before), (following, latch))
    function.branch(rest.ne(0), body, done)
    function.label(body)
    lane = function.intrinsic("i32", "llvm.cttz.i32", rest, "i1 true")
    yield lane.to("i64")
    function.jump(latch)
    function.label(latch)
    less = rest - 1
    function.emit(f"%{tag}.next = and i32 {rest.text}, {less.text}")
    function.jump(head)
    function.label(done)
