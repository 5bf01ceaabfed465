"""Vector ALU instructions: finds an operation's row, feeds it its operands, writes its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from exosuit.silicon.amd.isa.operands import VCC, VECTOR
from exosuit.softcard.amd.isa import cross, floats, integers
from exosuit.softcard.amd.isa.compare import compare
from exosuit.softcard.amd.isa.decode import Dual, Instruction
from exosuit.softcard.amd.isa.matrix import matrix_product
from exosuit.softcard.amd.isa.operation import Operation, Untranslated
from exosuit.softcard.amd.isa.packed import dot2_accumulated, packed
from exosuit.softcard.amd.isa.scalar import IGNORED
from exosuit.softcard.amd.isa.wave import Wave
from exosuit.softcard.translation.ir import Lanes

OPERATIONS: dict[str, Operation] = {**integers.INTEGERS, **floats.FLOATS}

_CHOICES = frozenset({"v_cndmask_b32", "v_cndmask_b16"})


def vector(wave: Wave, made: Instruction) -> None:
    """Translate an instruction of VOP1, VOP2, VOP3, VOPC or VOP3P."""
    name = made.name
    if (special := _SPECIAL.get(name)) is not None:
        special(wave)
    elif name.startswith("v_cmp"):
        compare(wave, name)
    elif name.startswith("v_wmma"):
        matrix_product(wave, name)
    elif made.table == "VOP3P":
        packed(wave, name)
    elif (operation := OPERATIONS.get(name)) is not None:
        wave.write(operation.result, _computed(wave, operation))
    elif name in floats.ROUTINES:
        _by_routine(wave, *floats.ROUTINES[name])
    elif name not in IGNORED:
        raise Untranslated(name)


def _computed(wave: Wave, operation: Operation) -> Lanes:
    made = wave.instruction
    operands = [
        wave.operand(k, kind, signalling=operation.chooses and wave.mode.ieee)
        for k, kind in enumerate(operation.sources)
    ]
    if made.name in _CHOICES and (made.neg or made.abs):
        operands = [_signs(wave, x, k) for k, x in enumerate(operands)]
    if operation.accumulates:
        operands.append(wave.old(operation.result))
    if made.clamp and operation.result.startswith("i"):
        if made.name not in integers.SATURATING:
            raise Untranslated(f"{made.name} with clamp")
        return operands[0].call(f"{integers.SATURATING[made.name]}.sat", *operands[1:])
    return operation.compute(*operands)


def _signs(wave: Wave, x: Lanes, index: int) -> Lanes:
    """Sign modifiers on an operand that is only moved."""
    if x.kind == "i1":
        return x
    sign = 1 << (x.bits - 1)
    if wave.instruction.abs >> index & 1:
        x = x & ~sign
    return x ^ sign if wave.instruction.neg >> index & 1 else x


def _by_routine(wave: Wave, kind: str, name: str) -> None:
    """One operand through a routine; f32 ones neither take nor give denormals."""
    x = wave.operand(0, kind)
    if kind == "float":
        x = _without_denormals(x)
    wave.settle()
    found = wave.routine(name, x, result=x)
    wave.write(kind, _without_denormals(found) if kind == "float" else found)


def _without_denormals(x: Lanes) -> Lanes:
    small = x.absolute().compare("olt", 2.0**-126)
    return small.select(x.like(0.0).call("copysign", x), x)


# Carries and wide products --------------------------------------------------------------------


def _carry_out(wave: Wave) -> None:
    """v_add_co, v_sub_co and their like, with and without a carry coming in."""
    made = wave.instruction
    a, b = wave.operand(0, "i32"), wave.operand(1, "i32")
    if "subrev" in made.name:
        a, b = b, a
    adding = "add" in made.name
    total = a + b if adding else a - b
    out = total.ult(a) if adding else a.ult(b)
    if "_ci_" in made.name:
        carry = wave.operand(2, "mask").to("i32")
        again = total + carry if adding else total - carry
        out = out | (again.ult(total) if adding else total.ult(carry))
        total = again
    if made.clamp:
        total = out.select(-1 if adding else 0, total)
    wave.write("i32", total)
    wave.set_mask(made.sdst, out)


def _wide_multiply_add(wave: Wave) -> None:
    made = wave.instruction
    signed = made.name == "v_mad_i64_i32"
    a, b, c = wave.operand(0, "i32"), wave.operand(1, "i32"), wave.operand(2, "i64")
    product = integers.wide_product(a, b, signed)
    total = product + c
    overflow = ~(product ^ c) & (product ^ total)
    out = overflow.compare("slt", 0) if signed else total.ult(product)
    wave.write("i64", total)
    wave.set_mask(made.sdst, out)


def _permute_bytes(wave: Wave) -> None:
    a, b, selector = (wave.operand(k, "i32") for k in range(3))
    wave.settle()
    wave.write("i32", wave.routine("permute_bytes", a, b, selector, result=a))


# Division -------------------------------------------------------------------------------------


def _division_scale(wave: Wave) -> None:
    """v_div_scale: an operand moved away from the ends of the exponent range, and whether."""
    made = wave.instruction
    kind = "float" if made.name.endswith("f32") else "double"
    mantissa, integer = (23, "i32") if kind == "float" else (52, "i64")
    field = (1 << (8 if kind == "float" else 11)) - 1
    apart, tiny = (96, 23) if kind == "float" else (768, 53)
    step = 2.0 ** (64 if kind == "float" else 128)
    x, bottom, top = (wave.operand(k, kind) for k in range(3))
    smallest = 2.0 ** (-126 if kind == "float" else -1022)

    def denormal(value: Lanes) -> Lanes:
        magnitude = value.absolute()
        return magnitude.compare("olt", smallest) & magnitude.compare("ogt", 0.0)

    def exponent(value: Lanes) -> Lanes:
        return (value.view(integer) >> mantissa) & field

    up, down = x * step, x * (1 / step)
    zero = top.eq(0.0) | bottom.eq(0.0)
    near_largest = (exponent(top) - exponent(bottom)).compare("sge", apart)
    # 1 / bottom is a denormal exactly where bottom's exponent is within one of the largest.
    inverse_denormal = bottom.absolute().compare("ogt", 1 / smallest) & bottom.absolute().compare(
        "olt", float("inf")
    )
    quotient_denormal = denormal(top / bottom)
    is_bottom, is_top = x.eq(bottom), x.eq(top)
    result = exponent(top).compare("sle", tiny).select(up, x)
    flag = zero & ~zero
    result = quotient_denormal.select(is_top.select(up, x), result)
    flag = quotient_denormal.select(~flag, flag)
    result = inverse_denormal.select(down, result)
    flag = inverse_denormal.select(flag & ~flag, flag)
    both = inverse_denormal & quotient_denormal
    # The guide has `up` here too, which would overflow every denominator of this case.
    result = both.select(is_bottom.select(down, x), result)
    flag = flag | both
    result = denormal(bottom).select(up, result)
    flag = flag & ~denormal(bottom)
    result = near_largest.select(is_bottom.select(up, x), result)
    flag = flag | near_largest
    result = zero.select(result.like(float("nan")), result)
    flag = flag & ~zero
    wave.write(kind, result)
    wave.set_mask(made.sdst, flag)


def _division_fma(wave: Wave) -> None:
    """v_div_fmas: a fused multiply-add, scaled back where v_div_scale said so.

    The guide's pseudocode multiplies by 2**32 (f64: 2**64), with which no scaled quotient would be
    right. What undoes v_div_scale is its own factor: up for a large quotient, down for a small one.
    """
    kind = "float" if wave.instruction.name.endswith("f32") else "double"
    factor = 2.0 ** (64 if kind == "float" else 128)
    a, b, c = (wave.operand(k, kind) for k in range(3))
    scale = c.absolute().compare("oge", 2.0).select(c.like(factor), 1 / factor)
    if kind == "float":  # in f64, so that a small quotient is rounded once
        wide = a.to("double") * b.to("double") + c.to("double")
        scaled = (wide * scale.to("double")).to("float")
    else:
        scaled = a.fma(b, c) * scale
    wave.write(kind, wave.mask(VCC).select(scaled, a.fma(b, c)))


# Two at once ----------------------------------------------------------------------------------


def dual(wave: Wave, made: Instruction) -> None:
    """VOPD: both halves read, then both write."""
    results: list[tuple[int, str, Lanes]] = []
    for half in made.duals:
        wave.instruction = _as_single(made, half)
        if half.name == "v_dot2acc_f32_f16":
            results.append((half.vdst, "float", dot2_accumulated(wave)))
            continue
        operation = OPERATIONS.get(half.name)
        if operation is None:
            raise Untranslated(half.name)
        results.append((half.vdst, operation.result, _computed(wave, operation)))
    for vdst, kind, value in results:
        wave.instruction = replace(made, vdst=vdst)
        wave.write(kind, value)


def _as_single(made: Instruction, half: Dual) -> Instruction:
    return replace(made, name=half.name, sources=half.sources, vdst=half.vdst)


def _half_pair_accumulate(wave: Wave) -> None:
    """v_pk_fmac_f16: both halves of the destination plus products."""
    made = wave.instruction
    wave.instruction = replace(
        made, table="VOP3P", name="v_pk_fma_f16", sources=(*made.sources, VECTOR + made.vdst),
        op_sel_hi=7,
    )  # fmt: skip
    packed(wave, "v_pk_fma_f16")


_SPECIAL: dict[str, Callable[[Wave], None]] = {
    **{
        f"v_{name}_{suffix}": _carry_out
        for name in ("add", "sub", "subrev")
        for suffix in ("co_u32", "co_ci_u32")
    },
    "v_mad_u64_u32": _wide_multiply_add,
    "v_mad_i64_i32": _wide_multiply_add,
    "v_perm_b32": _permute_bytes,
    "v_div_scale_f32": _division_scale,
    "v_div_scale_f64": _division_scale,
    "v_div_fmas_f32": _division_fma,
    "v_div_fmas_f64": _division_fma,
    "v_dot2acc_f32_f16": lambda wave: wave.write("float", dot2_accumulated(wave)),
    "v_pk_fmac_f16": _half_pair_accumulate,
    "v_readlane_b32": cross.read_lane,
    "v_readfirstlane_b32": cross.read_first_lane,
    "v_writelane_b32": cross.write_lane,
    "v_permlane16_b32": lambda wave: cross.permute_rows(wave, exchange=False),
    "v_permlanex16_b32": lambda wave: cross.permute_rows(wave, exchange=True),
    "v_swap_b32": cross.swap,
    "v_movrels_b32": lambda wave: cross.move_relative(wave, source=True, destination=False),
    "v_movreld_b32": lambda wave: cross.move_relative(wave, source=False, destination=True),
    "v_movrelsd_b32": lambda wave: cross.move_relative(wave, source=True, destination=True),
}
