"""How integer dots are accumulated: the fastest exact way that each target has.

    PairDots    x86 without VNNI: bytes multiply into pairs of i16. Several pairs are added before
                they are widened, as long as a format's bound says that 16 bits cannot overflow;
                one `pmaddwd` then widens and applies an integer scale at once.
    FourDots    four bytes at once into i32: one instruction with VNNI and AArch64's dot product,
                exact everywhere.

Both take a format's quants for eight rows and activations broadcast to eight rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from exosuit.kernel import (
    Target,
    Value,
    absolute,
    apply_sign,
    dot4,
    i8,
    i16,
    i32,
    pair_dot,
    pair_dot_bytes,
    u8,
    u32,
    vector,
    zeros,
)
from exosuit.ops.blocks import ROWS
from exosuit.ops.formats import Format

_ACTIVATION_BOUND = 127


@dataclass(frozen=True)
class Quants:
    """Quants made ready to be multiplied with many activations."""

    bytes: Value
    signs: Value | None = None


class FourDots:
    """i32 accumulators. Signed quants become unsigned by 128, which `extra_offset` takes back."""

    def __init__(self, format: Format, target: Target) -> None:
        # VNNI multiplies unsigned with signed bytes. AArch64 takes signed with signed, and as
        # unsigned quants are small (see `Format.bound`), their bytes say the same as signed ones.
        self._make_unsigned = format.signed and target.family == "x86"
        self._make_signed = not format.signed and target.family == "aarch64"
        self.extra_offset = 128 if self._make_unsigned else 0

    def prepare(self, quants: Value) -> Quants:
        if self._make_unsigned:
            return Quants(quants.view(u8) ^ 0x80)
        return Quants(quants.view(i8) if self._make_signed else quants)

    def multiplier(self, scale: Value) -> Value:
        return scale.to(i32)

    def add(self, total: Sum, quants: Quants, activations: Value) -> Sum:
        if total.wide is None:
            start = zeros(i32, ROWS)
            if total.multiplier is None and total.before is not None:
                start = total.before
            total = replace(total, wide=start)
        assert total.wide is not None
        return replace(total, wide=dot4(quants.bytes, activations.view(i8), total.wide))

    def finish(self, total: Sum) -> Value:
        assert total.wide is not None, "an empty sum"
        if total.multiplier is None:
            return total.wide
        scaled = total.wide * total.multiplier
        return scaled if total.before is None else total.before + scaled


class PairDots:
    """i16 accumulators of pairs, widened before they could overflow."""

    extra_offset = 0

    def __init__(self, format: Format, target: Target) -> None:
        del target
        self._pairs = 32767 // (2 * format.bound * _ACTIVATION_BOUND)
        self._signed = format.signed

    def prepare(self, quants: Value) -> Quants:
        if self._signed:
            return Quants(absolute(quants).view(u8), quants)
        return Quants(quants)

    def multiplier(self, scale: Value) -> Value:
        return pair_of(scale)

    def add(self, total: Sum, quants: Quants, activations: Value) -> Sum:
        activations = activations.view(i8)
        if quants.signs is not None:
            activations = apply_sign(activations, quants.signs)
        pairs = pair_dot_bytes(quants.bytes, activations)
        if total.narrow is None:
            return replace(total, narrow=pairs, pending=1)
        if total.pending < self._pairs:
            return replace(total, narrow=total.narrow + pairs, pending=total.pending + 1)
        return replace(total, before=self.finish(total), narrow=pairs, pending=1)

    def finish(self, total: Sum) -> Value:
        assert total.narrow is not None, "an empty sum"
        ones = vector(i16, [1] * 2 * ROWS)
        wide = pair_dot(total.narrow, ones if total.multiplier is None else total.multiplier)
        return wide if total.before is None else total.before + wide


Dots = FourDots | PairDots


@dataclass(frozen=True)
class Sum:
    """A dot in progress for eight rows and one token: `before + multiplier * (what was added)`."""

    dots: Dots
    before: Value | None
    multiplier: Value | None
    wide: Value | None = None
    narrow: Value | None = None
    pending: int = 0

    def add(self, quants: Quants, activations: Value) -> Sum:
        return self.dots.add(self, quants, activations)

    def finish(self) -> Value:
        """i32[8]"""
        return self.dots.finish(self)


def dots_for(format: Format, target: Target) -> Dots:
    """The way for this target."""
    if target.has("pair_dot") and not target.has("dot4_fast"):
        return PairDots(format, target)
    return FourDots(format, target)


def pair_of(scale: Value) -> Value:
    """i8[8] or u8[8] as i16[16], each twice."""
    wide = scale.to(i32).view(u32)
    return ((wide << 16) | (wide & 0xFFFF)).view(i16)
