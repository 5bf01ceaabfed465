"""Scalar instructions: arithmetic of the wave itself, its condition bit, its mask, its constants.

Waits, hints and cache controls do nothing here: memory is coherent and every instruction is done
before the next begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from exosuit.silicon.amd.isa.encodings import Smem
from exosuit.silicon.amd.isa.operands import EXEC, M0, NULL
from exosuit.softcard.amd.isa import integers, state
from exosuit.softcard.amd.isa.decode import Instruction
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.wave import FloatMode, Wave
from exosuit.softcard.translation.ir import Lanes

IGNORED = frozenset({
    "s_nop", "s_delay_alu", "s_waitcnt", "s_waitcnt_vscnt", "s_waitcnt_vmcnt", "s_waitcnt_expcnt",
    "s_waitcnt_lgkmcnt", "s_waitcnt_depctr", "s_wait_idle", "s_wait_event", "s_clause",
    "s_set_inst_prefetch_distance", "s_setprio", "s_sendmsg", "s_icache_inv", "s_dcache_inv",
    "s_gl1_inv", "s_incperflevel", "s_decperflevel", "s_wakeup", "s_ttracedata",
    "s_ttracedata_imm", "s_version", "buffer_gl0_inv", "buffer_gl1_inv", "v_nop", "v_pipeflush",
    "ds_nop", "s_setkill",
})  # fmt: skip

_MODE_REGISTER, _CYCLES_REGISTER = 1, 29
_REAL_TIME, _DOORBELL = 131, 128  # messages of s_sendmsg_rtn


@dataclass(frozen=True)
class ScalarOperation:
    """result and sources are "i32" or "i64"; scc says what becomes of the condition bit.

    scc    "" leaves it, "result" is whether the result is not zero, "pair" means that `compute`
           gives the result and the condition
    """

    result: str
    sources: tuple[str, ...]
    compute: Callable[..., Lanes | tuple[Lanes, Lanes]]
    scc: str = ""


Result = Lanes | tuple[Lanes, Lanes]
Compute = Callable[[Lanes], Result] | Callable[[Lanes, Lanes], Result]


def _op(kinds: str, compute: Compute, scc: str = "") -> ScalarOperation:
    result, *sources = kinds.split()
    return ScalarOperation(result, tuple(sources), compute, scc)


def _add(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    total = a + b
    return total, total.ult(a)


def _add_signed(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    total = a + b
    return total, (~(a ^ b) & (a ^ total)).compare("slt", 0)


def _subtract_signed(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    difference = a - b
    return difference, ((a ^ b) & (a ^ difference)).compare("slt", 0)


def _lesser(predicate: str) -> Callable[[Lanes, Lanes], tuple[Lanes, Lanes]]:
    """Min or max: the condition is whether the first was taken."""

    def compute(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
        first = a.compare(predicate, b)
        return first.select(a, b), first

    return compute


def _shift_add(n: int) -> Callable[[Lanes, Lanes], tuple[Lanes, Lanes]]:
    def compute(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
        total = (a.to("i64") << n) + b.to("i64")
        return total.to("i32"), (total >> 32).ne(0)

    return compute


def _absolute(a: Lanes) -> Lanes:
    return a.compare("slt", 0).select(0 - a, a)


def _field(x: Lanes, where: Lanes, signed: bool) -> Lanes:
    """Bits of x; `where` holds the offset in its low byte, the width in bits 22:16."""
    bits = x.bits
    offset, width = where & (bits - 1), (where >> 16) & 127
    if bits == 64:
        offset, width = offset.to("i64"), width.to("i64")
    width = width.umin(bits)
    spare = bits - width
    kept = (spare & (bits - 1)) if bits == 64 else spare & 31
    moved = (x.ashr(offset) if signed else x >> offset) << kept
    found = moved.ashr(kept) if signed else moved >> kept
    return width.eq(0).select(0, found)


def _every_other(x: Lanes) -> Lanes:
    """Each bit twice."""
    wide = x.to("i64")
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF),
                        (4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333),
                        (1, 0x5555555555555555)):  # fmt: skip
        wide = (wide | (wide << shift)) & mask
    return wide | (wide << 1)


def _quads(x: Lanes, whole: bool) -> Lanes:
    """One bit for each four, or all four bits: whether any of them is set."""
    found = x | (x >> 1)
    found = (found | (found >> 2)) & 0x11111111
    if whole:
        return found * 15
    result = x.like(0)
    for k in range(8):
        result = result | (found >> 3 * k) & (1 << k)
    return result


def _bit(n: Lanes, kind: str) -> Lanes:
    one = n.function.constant(kind, 1)
    return one << ((n & 31) if kind == "i32" else (n & 63).to("i64"))


def _count(name: str, x: Lanes) -> Lanes:
    """Leading or trailing zeros of an i64 as an i32, -1 if it is 0."""
    found = x.function.intrinsic(x, f"llvm.{name}.i64", x, "i1 false").to("i32")
    return x.eq(0).select(found.like(-1), found)


_LOGIC: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b),
    "xnor": lambda a, b: ~(a ^ b),
    "and_not1": lambda a, b: a & ~b,
    "or_not1": lambda a, b: a | ~b,
    "and_not0": lambda a, b: ~a & b,
    "or_not0": lambda a, b: ~a | b,
}

OPERATIONS: dict[str, ScalarOperation] = {
    "s_add_u32": _op("i32 i32 i32", _add, "pair"),
    "s_sub_u32": _op("i32 i32 i32", lambda a, b: (a - b, a.ult(b)), "pair"),
    "s_add_i32": _op("i32 i32 i32", _add_signed, "pair"),
    "s_sub_i32": _op("i32 i32 i32", _subtract_signed, "pair"),
    "s_absdiff_i32": _op("i32 i32 i32", lambda a, b: _absolute(a - b), "result"),
    "s_min_i32": _op("i32 i32 i32", _lesser("slt"), "pair"),
    "s_min_u32": _op("i32 i32 i32", _lesser("ult"), "pair"),
    "s_max_i32": _op("i32 i32 i32", _lesser("sge"), "pair"),
    "s_max_u32": _op("i32 i32 i32", _lesser("uge"), "pair"),
    "s_lshl_b32": _op("i32 i32 i32", lambda a, n: a << (n & 31), "result"),
    "s_lshl_b64": _op("i64 i64 i32", lambda a, n: a << (n & 63).to("i64"), "result"),
    "s_lshr_b32": _op("i32 i32 i32", lambda a, n: a >> (n & 31), "result"),
    "s_lshr_b64": _op("i64 i64 i32", lambda a, n: a >> (n & 63).to("i64"), "result"),
    "s_ashr_i32": _op("i32 i32 i32", lambda a, n: a.ashr(n & 31), "result"),
    "s_ashr_i64": _op("i64 i64 i32", lambda a, n: a.ashr((n & 63).to("i64")), "result"),
    **{f"s_lshl{n}_add_u32": _op("i32 i32 i32", _shift_add(n), "pair") for n in (1, 2, 3, 4)},
    "s_bfe_u32": _op("i32 i32 i32", lambda a, w: _field(a, w, False), "result"),
    "s_bfe_i32": _op("i32 i32 i32", lambda a, w: _field(a, w, True), "result"),
    "s_bfe_u64": _op("i64 i64 i32", lambda a, w: _field(a, w, False), "result"),
    "s_bfe_i64": _op("i64 i64 i32", lambda a, w: _field(a, w, True), "result"),
    "s_bfm_b32": _op("i32 i32 i32", lambda n, at: (_bit(n, "i32") - 1) << (at & 31)),
    "s_bfm_b64": _op("i64 i32 i32", lambda n, at: (_bit(n, "i64") - 1) << (at & 63).to("i64")),
    "s_mul_i32": _op("i32 i32 i32", lambda a, b: a * b),
    "s_mul_hi_u32": _op("i32 i32 i32", lambda a, b: integers.high_product(a, b, False)),
    "s_mul_hi_i32": _op("i32 i32 i32", lambda a, b: integers.high_product(a, b, True)),
    "s_pack_ll_b32_b16": _op("i32 i32 i32", lambda a, b: (a & 0xFFFF) | (b << 16)),
    "s_pack_lh_b32_b16": _op("i32 i32 i32", lambda a, b: (a & 0xFFFF) | (b & 0xFFFF0000)),
    "s_pack_hh_b32_b16": _op("i32 i32 i32", lambda a, b: (a >> 16) | (b & 0xFFFF0000)),
    "s_pack_hl_b32_b16": _op("i32 i32 i32", lambda a, b: (a >> 16) | (b << 16)),
    "s_mov_b32": _op("i32 i32", lambda a: a),
    "s_mov_b64": _op("i64 i64", lambda a: a),
    "s_not_b32": _op("i32 i32", lambda a: ~a, "result"),
    "s_not_b64": _op("i64 i64", lambda a: ~a, "result"),
    "s_brev_b32": _op("i32 i32", lambda a: a.call("bitreverse")),
    "s_brev_b64": _op("i64 i64", lambda a: a.call("bitreverse")),
    "s_ctz_i32_b32": _op("i32 i32", integers.trailing_zeros),
    "s_ctz_i32_b64": _op("i32 i64", lambda a: _count("cttz", a)),
    "s_clz_i32_u32": _op("i32 i32", integers.leading_zeros),
    "s_clz_i32_u64": _op("i32 i64", lambda a: _count("ctlz", a)),
    "s_cls_i32": _op("i32 i32", integers.sign_bits),
    "s_cls_i32_i64": _op("i32 i64", lambda a: _count("ctlz", a ^ a.ashr(63))),
    "s_sext_i32_i8": _op("i32 i32", lambda a: (a << 24).ashr(24)),
    "s_sext_i32_i16": _op("i32 i32", lambda a: (a << 16).ashr(16)),
    "s_abs_i32": _op("i32 i32", _absolute, "result"),
    "s_bcnt0_i32_b32": _op("i32 i32", lambda a: (~a).call("ctpop"), "result"),
    "s_bcnt1_i32_b32": _op("i32 i32", lambda a: a.call("ctpop"), "result"),
    "s_bcnt0_i32_b64": _op("i32 i64", lambda a: (~a).call("ctpop").to("i32"), "result"),
    "s_bcnt1_i32_b64": _op("i32 i64", lambda a: a.call("ctpop").to("i32"), "result"),
    "s_bitreplicate_b64_b32": _op("i64 i32", _every_other),
    "s_quadmask_b32": _op("i32 i32", lambda a: _quads(a, False), "result"),
    "s_wqm_b32": _op("i32 i32", lambda a: _quads(a, True), "result"),
    **{
        f"s_{name}_{kind}": _op(f"{word} {word} {word}", compute, "result")
        for name, compute in _LOGIC.items()
        for kind, word in (("b32", "i32"), ("b64", "i64"))
    },
}


def scalar(wave: Wave, made: Instruction) -> None:
    """Translate a scalar instruction that is no branch and no end."""
    name = made.name
    if name in IGNORED:
        return
    operation = OPERATIONS.get(name)
    if operation is not None:
        _compute(wave, made, operation)
        return
    special = _SPECIAL.get(name)
    if special is not None:
        special(wave, made)
        return
    if match := re.fullmatch(r"s_(\w+)_(saveexec|wrexec)_b32", name):
        _mask(wave, made, match[1], match[2] == "saveexec")
    elif match := re.fullmatch(r"s_cmpk?_(\w\w)_([iu])(32|64)", name):
        _compare(wave, made, match[1], match[2], f"i{match[3]}")
    else:
        raise Untranslated(name)


def operand(wave: Wave, made: Instruction, index: int, kind: str) -> Lanes:
    signed = made.name.endswith(("i64", "_i32"))
    return wave.source(made.sources[index], int(kind[1:]), 1, signed)


def _compute(wave: Wave, made: Instruction, operation: ScalarOperation) -> None:
    operands = [operand(wave, made, k, kind) for k, kind in enumerate(operation.sources)]
    result = operation.compute(*operands)
    if isinstance(result, tuple):
        result, condition = result
        wave.scc = condition
    elif operation.scc == "result":
        wave.scc = result.ne(0)
    wave.set_scalar(made.sdst, result)


def _mask(wave: Wave, made: Instruction, name: str, save: bool) -> None:
    """Combine the mask of active lanes with an operand, and keep what it was, or is."""
    before = wave.exec
    found = _LOGIC[name](operand(wave, made, 0, "i32"), before)
    wave.set_scalar(EXEC, found)
    wave.set_scalar(made.sdst, before if save else found)
    wave.scc = found.ne(0)


def _compare(wave: Wave, made: Instruction, relation: str, letter: str, kind: str) -> None:
    if made.table == "SOPK":
        a = wave.scalar(made.sdst)
        b = a.like(made.literal if letter == "i" else made.literal & 0xFFFF)
    else:
        a, b = operand(wave, made, 0, kind), operand(wave, made, 1, kind)
    predicate = {"eq": "eq", "lg": "ne"}.get(relation) or {"i": "s", "u": "u"}[letter] + relation
    wave.scc = a.compare(predicate, b)


def _bit_compare(wave: Wave, made: Instruction) -> None:
    kind = f"i{made.name[-2:]}"
    value, index = operand(wave, made, 0, kind), operand(wave, made, 1, "i32")
    is_set = (value & _bit(index, kind)).ne(0)
    wave.scc = is_set if made.name.startswith("s_bitcmp1") else ~is_set


def _bit_set(wave: Wave, made: Instruction) -> None:
    kind = f"i{made.name[-2:]}"
    old = wave.scalar(made.sdst) if kind == "i32" else wave.scalar_pair(made.sdst)
    bit = _bit(operand(wave, made, 0, "i32"), kind)
    wave.set_scalar(made.sdst, old | bit if made.name.startswith("s_bitset1") else old & ~bit)


def _carry(wave: Wave, made: Instruction) -> None:
    a, b = (operand(wave, made, k, "i32").to("i64") for k in (0, 1))
    carry = wave.scc.to("i64")
    total = a + b + carry if made.name == "s_addc_u32" else a - b - carry
    wave.set_scalar(made.sdst, total.to("i32"))
    wave.scc = (total >> 32).ne(0)


def _select(wave: Wave, made: Instruction) -> None:
    kind = f"i{made.name[-2:]}"
    chosen = wave.scc.select(operand(wave, made, 0, kind), operand(wave, made, 1, kind))
    wave.set_scalar(made.sdst, chosen)


def _move_if(wave: Wave, made: Instruction) -> None:
    wide = made.name.endswith("b64")
    old = wave.scalar_pair(made.sdst) if wide else wave.scalar(made.sdst)
    new = old.like(made.literal) if made.table == "SOPK" else operand(wave, made, 0, old.kind)
    wave.set_scalar(made.sdst, wave.scc.select(new, old))


def _add_constant(wave: Wave, made: Instruction) -> None:
    old = wave.scalar(made.sdst)
    total, overflow = _add_signed(old, old.like(made.literal))
    wave.set_scalar(made.sdst, total)
    wave.scc = overflow


def _program_counter(wave: Wave, made: Instruction) -> None:
    wave.set_scalar(made.sdst, wave.load("i64", state.ENTRY, align=8) + made.end)


def _get_register(wave: Wave, made: Instruction) -> None:
    register = made.literal & 63
    offset, size = made.literal >> 6 & 31, (made.literal >> 11 & 31) + 1
    if register == _CYCLES_REGISTER:
        value = wave.load("i64", state.INSTRUCTIONS, align=8).to("i32")
    elif register == _MODE_REGISTER:
        value = wave.ir.constant("i32", mode_bits(wave))
    else:
        raise Untranslated(f"s_getreg_b32 of register {register}")
    wave.set_scalar(made.sdst, (value >> offset) & ((1 << size) - 1))


def mode_bits(wave: Wave) -> int:
    """The MODE register as this program runs with."""
    mode = wave.mode
    kept = (0 if mode.flush_single else 3) << 4 | (0 if mode.flush_other else 3) << 6
    return kept | mode.clamp_nan << 8 | mode.ieee << 9


def _set_mode(wave: Wave, made: Instruction) -> None:
    """s_round_mode, s_denorm_mode, s_setreg_imm32_b32 of MODE: compilers change it for a division.

    The change holds up to the end of the block, where the program's own mode must be back.
    """
    if made.name == "s_round_mode":
        offset, size, value = 0, 4, made.literal & 15
    elif made.name == "s_denorm_mode":
        offset, size, value = 4, 4, made.literal & 15
    else:
        where = made.dwords[0] & 0xFFFF
        if where & 63 != _MODE_REGISTER:
            raise Untranslated(f"{made.name} of register {where & 63}")
        offset, size, value = where >> 6 & 31, (where >> 11) + 1, made.literal
    mask = (1 << size) - 1 << offset
    bits = mode_bits(wave) & ~mask | value << offset & mask
    if bits & 15 or bits >> 10:
        raise Untranslated(f"{made.name}: MODE {bits:#x}")
    wave.mode = FloatMode(
        flush_single=bits >> 4 & 3 == 0, flush_other=bits >> 6 & 3 == 0,
        clamp_nan=bool(bits >> 8 & 1), ieee=bool(bits >> 9 & 1),
    )  # fmt: skip
    wave.ir.ieee = wave.mode.ieee


def _send_message(wave: Wave, made: Instruction) -> None:
    message = made.sources[0]
    if message == _REAL_TIME:
        clock = wave.load("i64", state.INSTRUCTIONS, align=8)
        wave.set_scalar(made.sdst, clock if made.name.endswith("b64") else clock.to("i32"))
    elif message == _DOORBELL:
        wave.set_scalar(made.sdst, wave.ir.constant("i32", 0))
    else:
        raise Untranslated(f"s_sendmsg_rtn of message {message}")


def _move_relative(wave: Wave, made: Instruction) -> None:
    """s_movrels, s_movreld: the register's number moves by M0."""
    wave.end_block()
    moved = (wave.scalar(M0) & 127).to("i64") << 2
    wide = made.name.endswith("b64")
    kind = "i64" if wide else "i32"
    if made.name.startswith("s_movrels"):
        place = wave.ir.address(wave.place(state.scalar_offset(made.sources[0])), moved)
        wave.set_scalar(made.sdst, wave.ir.load(kind, 1, place, 4))
        return
    value = operand(wave, made, 0, kind)
    place = wave.ir.address(wave.place(state.scalar_offset(made.sdst)), moved)
    wave.ir.store(value, place, 4)
    wave.forget_scalars(range(state.SCALAR_COUNT))


_SPECIAL: dict[str, Callable[[Wave, Instruction], None]] = {
    "s_bitcmp0_b32": _bit_compare,
    "s_bitcmp1_b32": _bit_compare,
    "s_bitcmp0_b64": _bit_compare,
    "s_bitcmp1_b64": _bit_compare,
    "s_bitset0_b32": _bit_set,
    "s_bitset1_b32": _bit_set,
    "s_bitset0_b64": _bit_set,
    "s_bitset1_b64": _bit_set,
    "s_addc_u32": _carry,
    "s_subb_u32": _carry,
    "s_cselect_b32": _select,
    "s_cselect_b64": _select,
    "s_cmov_b32": _move_if,
    "s_cmov_b64": _move_if,
    "s_cmovk_i32": _move_if,
    "s_movk_i32": lambda wave, made: wave.set_scalar(
        made.sdst, wave.ir.constant("i32", made.literal)
    ),
    "s_addk_i32": _add_constant,
    "s_mulk_i32": lambda wave, made: wave.set_scalar(
        made.sdst, wave.scalar(made.sdst) * made.literal
    ),
    "s_getpc_b64": _program_counter,
    "s_getreg_b32": _get_register,
    "s_round_mode": _set_mode,
    "s_denorm_mode": _set_mode,
    "s_setreg_imm32_b32": _set_mode,
    "s_sendmsg_rtn_b32": _send_message,
    "s_sendmsg_rtn_b64": _send_message,
    "s_movrels_b32": _move_relative,
    "s_movrels_b64": _move_relative,
    "s_movreld_b32": _move_relative,
    "s_movreld_b64": _move_relative,
}


def scalar_load(wave: Wave, made: Instruction) -> None:
    """s_load: consecutive dwords into consecutive scalar registers."""
    match = re.fullmatch(r"s_load_b(\d+)", made.name)
    if match is None:
        if made.name in IGNORED:
            return
        raise Untranslated(made.name)
    word = made.word
    assert isinstance(word, Smem)
    count = int(match[1]) // 32
    address = wave.scalar_pair(2 * word.sbase) + made.literal
    if word.soffset != NULL:
        address = address + wave.scalar(word.soffset).to("i64")
    place = wave.place(state.scalar_offset(made.sdst))
    wave.routine(f"load_scalars_{count}", wave.STATE, place, address & ~3)
    wave.forget_scalars(range(made.sdst, made.sdst + count))
