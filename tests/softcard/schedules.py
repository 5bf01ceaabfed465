"""Seeded schedules of faults: a whole session on a software card, and then the next one.

A session boots the card, loads a tiny model and answers; the schedule makes the card, the cable or
the client itself fail at chosen accesses. Two ends are right: the answer is the host's, token for
token, or an ExosuitError says what happened, why and what to do. Whatever came before, the next
session on the same card must answer. `python benchmarks/faults.py` runs a thousand.

Cards of NVIDIA's may need their power cut first, where a fault leaves what no reset takes back; the
session before must have told the user to. On them two things more are wrong whatever a session
answers: a request of the card's to memory that is not mapped, and firmware that could make one when
its host memory goes. A Mac does not survive either.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.softcard.nvidia_cards import CHIPS as NVIDIA_CHIPS
from tests.softcard.nvidia_cards import assemble

from exosuit.clock import Clock
from exosuit.driver.amd import AmdDevice, Card
from exosuit.driver.device import Device
from exosuit.driver.nvidia.bare_metal import BareMetalRoute
from exosuit.driver.nvidia.bare_metal import Card as NvidiaDriver
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.engine.batch import Run, Sampling
from exosuit.engine.runner import open_runner
from exosuit.errors import ExosuitError
from exosuit.link.function import Bar, Data, PciFunction
from exosuit.softcard.amd.firmware import SyntheticFirmware
from exosuit.softcard.card import Options, SoftCard
from exosuit.softcard.chips import make_card
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.faults import GENERAL, NVIDIA, FaultKind, FaultSchedule
from exosuit.softcard.nvidia.card import NvidiaCard
from exosuit.softcard.nvidia.firmware import SyntheticFirmware as NvidiaFirmware
from exosuit.units import MiB

PROMPT = (1, 403, 407, 261, 378)
"""`<s> Once upon a time` of the 260K-parameter story model."""
ANSWER_TOKENS = 10
HANG_S = 2.0
LIMIT_S = 60
"""Real seconds after which a session counts as hung."""
CLIENT_KINDS = ("killed",)
CARD_KINDS = tuple(k for k in GENERAL if k not in (FaultKind.STALL, FaultKind.DROP))
"""A stalled or dropped connection needs a connection; `tests.unit.link` has those."""


@dataclass(frozen=True)
class Family:
    """Cards that one driver boots.

    chips  by name; one that is there twice is drawn twice as often
    boot   brings a card behind a link up
    """

    name: str
    chips: tuple[str, ...]
    kinds: tuple[FaultKind, ...]
    boot: Callable[[PciFunction, Clock], Device]


def _boot_amd(link: PciFunction, clock: Clock) -> Device:
    return AmdDevice.boot(link, Card(link, SyntheticFirmware(), clock, HANG_S))


def _boot_nvidia(link: PciFunction, clock: Clock) -> Device:
    route = BareMetalRoute.boot(NvidiaDriver(link, NvidiaFirmware(), clock), HANG_S)
    return NvidiaDevice.start(route, assemble)


def _nvidia(chip: str) -> Family:
    return Family(chip, (chip,), (*CARD_KINDS, *NVIDIA), _boot_nvidia)


FAMILIES = {
    family.name: family
    for family in (
        Family("amd", ("gfx1100", "gfx1100", "gfx1102"), CARD_KINDS, _boot_amd),
        *map(_nvidia, NVIDIA_CHIPS),
    )
}


class HastyClock:
    """Every look at it takes a millisecond, so that waits end at once where nothing can happen."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 1e-3
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class Killed(BaseException):
    """The client's process ended between two of its accesses; nothing of it runs any more."""


class MortalLink:
    """A link whose user is killed at an access; from then on it carries nothing."""

    def __init__(self, link: DirectLink, last_access: int | None) -> None:
        self._link = link
        self._left = last_access
        self.name, self.counters = link.name, link.counters
        self.is_dead = False

    def live(self) -> None:
        if self._left is not None:
            self._left -= 1
            self.is_dead = self.is_dead or self._left < 0
        if self.is_dead:
            raise Killed

    def read_config(self, offset: int, size: int) -> int:
        self.live()
        return self._link.read_config(offset, size)

    def write_config(self, offset: int, value: int, size: int) -> None:
        self.live()
        self._link.write_config(offset, value, size)

    def bar(self, index: int) -> Bar:
        self.live()
        return MortalBar(self._link.bar(index), self.live)

    def resize_bar(self, index: int) -> int:
        self.live()
        return self._link.resize_bar(index)

    def allocate_dma(self, size: int, *, contiguous: bool = False):
        self.live()
        return self._link.allocate_dma(size, contiguous=contiguous)

    def reset(self) -> None:
        self.live()
        self._link.reset()

    def close(self) -> None:
        if not self.is_dead:
            self._link.close()


class MortalBar:
    def __init__(self, bar: Bar, live: Callable[[], None]) -> None:
        self._bar, self._live = bar, live
        self.index, self.address, self.size = bar.index, bar.address, bar.size

    def read32(self, offset: int) -> int:
        self._live()
        return self._bar.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self._live()
        self._bar.write32(offset, value)

    def write64(self, offset: int, value: int) -> None:
        self._live()
        self._bar.write64(offset, value)

    def read(self, offset: int, size: int) -> bytes:
        self._live()
        return self._bar.read(offset, size)

    def read_into(self, offset: int, target: memoryview) -> None:
        self._live()
        self._bar.read_into(offset, target)

    def write(self, offset: int, data: Data) -> None:
        self._live()
        self._bar.write(offset, data)


@dataclass(frozen=True)
class Schedule:
    """What goes wrong in one session, and on which card.

    killed_at  access of the client after which its process is gone
    """

    seed: int
    chip: str
    bar: int
    faults: tuple[tuple[int, FaultKind], ...]
    killed_at: int | None

    @staticmethod
    def drawn(seed: int, reach: int, family: Family) -> Schedule:
        """One to three faults within the first `reach` accesses, half of them in the boot."""
        draw = random.Random(seed)
        chip = draw.choice(family.chips)
        bar = draw.choice((0, 256 * MiB))

        def place() -> int:
            return draw.randint(1, reach // 4 if draw.random() < 0.5 else reach)

        if draw.random() < 0.2:
            return Schedule(seed, chip, bar, (), place())
        kinds = draw.choices(family.kinds, k=draw.randint(1, 3))
        return Schedule(seed, chip, bar, tuple((place(), kind) for kind in kinds), None)

    def __str__(self) -> str:
        faults = "+".join(f"{kind.value}@{at}" for at, kind in sorted(self.faults, key=first))
        told = faults or f"killed@{self.killed_at}"
        return f"seed {self.seed}: {self.chip}{' small bar' if self.bar else ''} {told}"


def first(pair: tuple[int, FaultKind]) -> int:
    return pair[0]


@dataclass(frozen=True)
class Outcome:
    """How a schedule ended.

    first   "answered", "killed", or the class of the error
    second  of the next session on the same card, or of the one after a power cycle
    cut     whether the power had to be cut in between
    wrong   why it is not as it must be; "" if it is
    """

    schedule: Schedule
    first: str
    second: str
    wrong: str
    cut: bool = False


class Sessions:
    """Sessions of one family with one model; `expected` is the host's answer."""

    def __init__(self, family: Family, model: Path, cache: Path, expected: list[int]) -> None:
        self._family = family
        self._model = model
        self._cache = cache
        self._expected = expected
        self._advice = ""

    def reach(self) -> int:
        """Accesses of a session in which nothing goes wrong."""
        card = self._card(self._family.chips[0], 0, FaultSchedule.none())
        assert self._session(card, None) == "answered"
        return card.faults.accesses

    def run(self, schedule: Schedule) -> Outcome:
        card = self._card(schedule.chip, schedule.bar, FaultSchedule(list(schedule.faults)))
        ended, second, wrong, cut = "", "", "", False
        try:
            with limited(LIMIT_S):
                ended = self._session(card, schedule.killed_at)
            if card.unplugged:  # comes back with the power: nothing of it is left
                card = self._card(schedule.chip, schedule.bar, FaultSchedule.none())
            card.calm()
            with limited(LIMIT_S):
                second = self._session(card, None)
            if second in ("BootFailed", "LinkLost") and card.needs_power:
                cut = True
                assert "off and on" in self._advice, f"the user is told to {self._advice!r}"
                card = self._card(schedule.chip, schedule.bar, FaultSchedule.none())
                with limited(LIMIT_S):
                    second = self._session(card, None)
            if second != "answered":
                wrong = f"the next session ended with {second}"
        except Exception as problem:
            wrong = f"{type(problem).__name__}: {problem}"
        return Outcome(schedule, ended, second, wrong, cut)

    def _card(self, chip: str, bar: int, faults: FaultSchedule) -> SoftCard:
        cache = self._cache / "softcard"
        options = Options(vram=512 * MiB, bar=bar, faults=faults, cache=cache, threads=1)
        return make_card(chip, options)

    def _session(self, card: SoftCard, killed_at: int | None) -> str:
        """How it ended; raises for an end that is none of the right ones."""
        link = MortalLink(DirectLink(card), killed_at)
        try:
            found = self._answer(link)
        except Killed:
            return "killed"
        except ExosuitError as error:
            explained(error)
            self._advice = error.next
            return type(error).__name__
        finally:
            card.host.clear()  # what a server does when its client is gone
            if isinstance(card, NvidiaCard):
                assert not card.bus.panics, f"the host would have panicked: {card.bus.panics}"
        if found != self._expected:
            raise AssertionError(f"wrong tokens: {found} for {self._expected}")
        return "answered"

    def _answer(self, link: PciFunction) -> list[int]:
        """Boot the card behind `link`, load the model onto it, answer `PROMPT`."""
        device = self._family.boot(link, HastyClock())
        try:
            return generate(device, self._model, self._cache)
        finally:
            with suppress(ExosuitError):
                device.close()


def generate(device: Device, model: Path, cache: Path) -> list[int]:
    """`ANSWER_TOKENS` greedy tokens after `PROMPT`."""
    file, runner, _ = open_runner(model, device, cache / "programs", context=64)
    try:
        tokens: tuple[int, ...] = PROMPT
        found: list[int] = []
        position = 0
        for _ in range(ANSWER_TOKENS):
            run = Run(0, tokens, position, (0,), Sampling(temperature=0.0))
            (sampled,) = runner.run([run])
            assert sampled is not None
            found.append(sampled.token)
            position += len(tokens)
            tokens = (sampled.token,)
        return found
    finally:
        with suppress(ExosuitError, Killed):
            runner.close()
        file.close()


def explained(error: ExosuitError) -> None:
    """An error that a user can act on: three parts, each with words in it."""
    for part in (error.what, error.cause, error.next):
        assert part.strip(), f"an error without an explanation: {error!r}"


@contextmanager
def limited(seconds: int) -> Generator[None]:
    """TimeoutError if it takes longer."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def expected_tokens(model: Path, cache: Path) -> list[int]:
    """The host's answer."""
    from exosuit import open_device

    with closing(open_device("cpu", threads=1)) as device:
        return generate(device, model, cache)
