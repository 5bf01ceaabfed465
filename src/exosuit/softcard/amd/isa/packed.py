"""VOP3P: operations on pairs of halves, dot products, and mixed-precision fused multiply-add.

`op_sel` says which half of each source makes the low result, `op_sel_hi` which makes the high one.
Inline constants fill the low half; integers come with their sign.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.amd.isa.operands import FLOATS, VECTOR, inline_float_bits
from exosuit.softcard.amd.isa import floats
from exosuit.softcard.amd.isa.dpp import through_dpp
from exosuit.softcard.amd.isa.operation import Operation, Untranslated, op
from exosuit.softcard.amd.isa.wave import Wave
from exosuit.softcard.translation.ir import WAVE, Lanes

_HALVES: dict[str, Operation] = {
    "v_pk_add_f16": op("half", "half half", lambda a, b: a + b),
    "v_pk_mul_f16": op("half", "half half", lambda a, b: a * b),
    "v_pk_min_f16": op("half", "half half", floats.minimum, chooses=True),
    "v_pk_max_f16": op("half", "half half", floats.maximum, chooses=True),
    "v_pk_fma_f16": op("half", "half half half", floats.fma_half),
}
_INTEGERS: dict[str, Operation] = {
    "v_pk_mad_i16": op("i16", "i16 i16 i16", lambda a, b, c: a * b + c),
    "v_pk_mad_u16": op("i16", "i16 i16 i16", lambda a, b, c: a * b + c),
    "v_pk_mul_lo_u16": op("i16", "i16 i16", lambda a, b: a * b),
    "v_pk_add_i16": op("i16", "i16 i16", lambda a, b: a + b),
    "v_pk_sub_i16": op("i16", "i16 i16", lambda a, b: a - b),
    "v_pk_add_u16": op("i16", "i16 i16", lambda a, b: a + b),
    "v_pk_sub_u16": op("i16", "i16 i16", lambda a, b: a - b),
    "v_pk_lshlrev_b16": op("i16", "i16 i16", lambda n, x: x << (n & 15)),
    "v_pk_lshrrev_b16": op("i16", "i16 i16", lambda n, x: x >> (n & 15)),
    "v_pk_ashrrev_i16": op("i16", "i16 i16", lambda n, x: x.ashr(n & 15)),
    "v_pk_max_i16": op("i16", "i16 i16", lambda a, b: a.smax(b)),
    "v_pk_min_i16": op("i16", "i16 i16", lambda a, b: a.smin(b)),
    "v_pk_max_u16": op("i16", "i16 i16", lambda a, b: a.umax(b)),
    "v_pk_min_u16": op("i16", "i16 i16", lambda a, b: a.umin(b)),
}
_SATURATING: dict[str, Operation] = {
    "v_pk_add_i16": op("i16", "i16 i16", lambda a, b: a.call("sadd.sat", b)),
    "v_pk_sub_i16": op("i16", "i16 i16", lambda a, b: a.call("ssub.sat", b)),
    "v_pk_add_u16": op("i16", "i16 i16", lambda a, b: a.call("uadd.sat", b)),
    "v_pk_sub_u16": op("i16", "i16 i16", lambda a, b: a.call("usub.sat", b)),
}
"""What the clamp bit makes of them."""


def packed(wave: Wave, name: str) -> None:
    """Translate a VOP3P instruction other than a matrix product."""
    if name in _HALVES:
        _packed_halves(wave, name)
    elif name in _INTEGERS:
        _packed_integers(wave, name)
    elif name.startswith("v_fma_mix"):
        _mixed(wave, name)
    elif name in _DOTS:
        _DOTS[name](wave)
    else:
        raise Untranslated(name)


def word(wave: Wave, index: int, floating: bool = False) -> Lanes:
    """Source `index` as i32 per lane."""
    code = wave.instruction.sources[index]
    if code >= VECTOR:
        bits = wave.vector(code - VECTOR)
    elif code in FLOATS and floating:
        bits = wave.ir.constant("i32", inline_float_bits(code, 16)).splat()
    else:
        bits = wave.source(code, 32, WAVE)
    return through_dpp(wave, bits) if index == 0 and wave.instruction.dpp is not None else bits


def half(wave: Wave, index: int, high: int, floating: bool) -> Lanes:
    """The half of source `index` that the low (0) or high (1) result is made from, i16."""
    made = wave.instruction
    chosen = (made.op_sel_hi if high else made.op_sel) >> index & 1
    bits = word(wave, index, floating)
    return ((bits >> 16) if chosen else bits).to("i16")


def half_float(wave: Wave, index: int, high: int, signalling: bool = False) -> Lanes:
    """The same as a float, with its sign changed where the instruction says so."""
    made = wave.instruction
    value = wave.as_float(half(wave, index, high, True), "half", signalling)
    return -value if (made.neg_hi if high else made.neg) >> index & 1 else value


def _packed_halves(wave: Wave, name: str) -> None:
    operation = _HALVES[name]
    results: list[Lanes] = []
    for high in (0, 1):
        operands = [
            half_float(wave, k, high, operation.chooses and wave.mode.ieee)
            for k in range(len(operation.sources))
        ]
        value = wave.flushed(operation.compute(*operands), "half")
        if wave.instruction.clamp:
            value = wave.clamped(value)
        results.append(value.to("half").view("i16"))
    _set_pair(wave, results)


def _packed_integers(wave: Wave, name: str) -> None:
    clamped = wave.instruction.clamp
    if clamped and name not in _SATURATING:
        raise Untranslated(f"{name} with clamp")
    operation = (_SATURATING if clamped else _INTEGERS)[name]
    _set_pair(wave, [
        operation.compute(*(half(wave, k, high, False) for k in range(len(operation.sources))))
        for high in (0, 1)
    ])  # fmt: skip


def _set_pair(wave: Wave, halves: list[Lanes]) -> None:
    joined = halves[0].to("i32") | (halves[1].to("i32") << 16)
    wave.set_vector(wave.instruction.vdst, joined, wave.writes())


def _mixed(wave: Wave, name: str) -> None:
    """v_fma_mix: each source an f32, or a half where `op_sel_hi` says so."""
    made = wave.instruction
    values: list[Lanes] = []
    for k in range(3):
        if made.op_sel_hi >> k & 1:
            bits = word(wave, k, True)
            value = wave.as_float(((bits >> 16) if made.op_sel >> k & 1 else bits).to("i16"),
                                  "half")  # fmt: skip
        else:
            value = wave.as_float(word(wave, k), "float")
        if made.neg_hi >> k & 1:  # the absolute value, in these operations
            value = value.absolute()
        values.append(-value if made.neg >> k & 1 else value)
    result = values[0].fma(values[1], values[2])
    if name == "v_fma_mix_f32":
        result = wave.flushed(result, "float")
    if made.clamp:
        result = wave.clamped(result)
    if name == "v_fma_mix_f32":
        wave.set_vector(made.vdst, result.view("i32"), wave.writes())
        return
    bits = wave.flushed(result, "half").to("half").view("i16")
    wave.set_half(made.vdst, name == "v_fma_mixhi_f16", bits, wave.writes())


# Dot products ---------------------------------------------------------------------------------


def _dot_integers(wave: Wave, size: int, signs: int) -> None:
    """The sum of products of fields of `size` bits; `signs` says which sources are signed."""
    a, b, total = word(wave, 0), word(wave, 1), word(wave, 2)
    if wave.instruction.clamp:
        raise Untranslated(f"{wave.instruction.name} with clamp")
    if size == 8:
        total = total + wave.routine(f"dot_bytes_{signs & 3}", a, b, result=total)
    else:
        for k in range(32 // size):
            fields = [
                (x << (32 - size - size * k)).ashr(32 - size)
                if signs >> n & 1
                else (x >> (size * k)) & ((1 << size) - 1)
                for n, x in enumerate((a, b))
            ]
            total = total + fields[0] * fields[1]
    wave.set_vector(wave.instruction.vdst, total, wave.writes())


def _dot_halves(wave: Wave, kind: str) -> None:
    """Sums of two products of halves, and an f32."""
    made = wave.instruction
    total = wave.as_float(word(wave, 2), "float")
    if made.neg_hi >> 2 & 1:
        total = total.absolute()
    if made.neg >> 2 & 1:
        total = -total
    total = _pair_added(wave, kind, total)
    if made.clamp:
        total = wave.clamped(total)
    wave.set_vector(made.vdst, total.view("i32"), wave.writes())


def _pair_added(wave: Wave, kind: str, total: Lanes) -> Lanes:
    for high in (0, 1):
        if kind == "f16":
            a, b = (_dot_half(wave, k, high) for k in (0, 1))
        else:
            a, b = (bfloat(half(wave, k, high, True)) for k in (0, 1))
        total = a.fma(b, total)
    return wave.flushed(total, "float")


def dot2_accumulated(wave: Wave) -> Lanes:
    """v_dot2acc_f32_f16: two products of halves added to what the destination holds."""
    return _pair_added(wave, "f16", wave.old("float"))


def _dot_half(wave: Wave, index: int, high: int) -> Lanes:
    if wave.instruction.table == "VOP3P":
        return half_float(wave, index, high)
    bits = word(wave, index, True)
    return wave.as_float(((bits >> 16) if high else bits).to("i16"), "half")


def bfloat(bits: Lanes) -> Lanes:
    """An i16 that holds a bf16, as a float."""
    return (bits.to("i32") << 16).view("float")


_DOTS: dict[str, Callable[[Wave], None]] = {
    "v_dot4_i32_iu8": lambda wave: _dot_integers(wave, 8, wave.instruction.neg),
    "v_dot4_u32_u8": lambda wave: _dot_integers(wave, 8, 0),
    "v_dot8_i32_iu4": lambda wave: _dot_integers(wave, 4, wave.instruction.neg),
    "v_dot8_u32_u4": lambda wave: _dot_integers(wave, 4, 0),
    "v_dot2_f32_f16": lambda wave: _dot_halves(wave, "f16"),
    "v_dot2_f32_bf16": lambda wave: _dot_halves(wave, "bf16"),
}
