"""The last boot that failed, as a layer of `doctor`: in which step, with which facts, what next.

It is what exosuit itself remembers, not what the machine says now; doctor never touches a card to
find out. Where a lower layer is broken, and for a software card, it is a warning only.
"""

from __future__ import annotations

from exosuit.advise.checks import Ladder
from exosuit.advise.failure import Failure, meaning_of
from exosuit.advise.situation import Situation

LAYER = "boot"
WHY = "exosuit remembers the last boot of a card that failed, until that card boots"


def check_boot(situation: Situation, ladder: Ladder) -> None:
    """Judge the layer "boot"."""
    failure = Failure.read(situation.text("boot"))
    if failure is None:
        ladder.ok(LAYER, "last boot", "none is remembered as failed")
        return
    meaning = meaning_of(failure)
    step = f"step {failure.step}" + (f" ({failure.why})" if failure.why else "")
    found = f"{failure.device}, {failure.when}, {step}: {failure.what}"
    cause = "; ".join(filter(None, (failure.cause, meaning.says if meaning else "")))
    is_soft = failure.device.startswith("soft:")
    tell = ladder.warn if is_soft or ladder.broken else ladder.fail
    tell(LAYER, "last boot", found, cause, (meaning.next if meaning else "") or failure.next)
    if failure.facts:
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in failure.facts.items())
        ladder.ok(LAYER, "facts", shown)
    if failure.logs:
        sizes = ", ".join(f"{name} {len(data)} bytes" for name, data in failure.logs.items())
        ladder.ok(LAYER, "firmware logs", f"{sizes}; --report carries them")


def _shown(value: object) -> str:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:#x}" if is_number else str(value)
