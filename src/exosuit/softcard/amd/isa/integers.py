"""Vector operations on integers and bits: what a lane's result is, name by name."""

from __future__ import annotations

from exosuit.softcard.amd.isa.operation import Operation, op
from exosuit.softcard.translation.ir import WAVE, Lanes


def signed24(x: Lanes) -> Lanes:
    return (x << 8).ashr(8)


def unsigned24(x: Lanes) -> Lanes:
    return x & 0xFFFFFF


def wide_product(a: Lanes, b: Lanes, signed: bool = False) -> Lanes:
    return a.to("i64", signed) * b.to("i64", signed)


def high_product(a: Lanes, b: Lanes, signed: bool) -> Lanes:
    return (wide_product(a, b, signed) >> 32).to("i32")


def field_unsigned(x: Lanes, offset: Lanes, width: Lanes) -> Lanes:
    return (x >> (offset & 31)) & ((x.like(1) << (width & 31)) - 1)


def field_signed(x: Lanes, offset: Lanes, width: Lanes) -> Lanes:
    size = width & 31
    spare = (32 - size) & 31
    found = (x.ashr(offset & 31) << spare).ashr(spare)
    return size.eq(0).select(0, found)


def leading_zeros(x: Lanes) -> Lanes:
    """-1 where there is no one."""
    return x.eq(0).select(-1, _count("ctlz", x))


def trailing_zeros(x: Lanes) -> Lanes:
    return x.eq(0).select(-1, _count("cttz", x))


def sign_bits(x: Lanes) -> Lanes:
    """How many bits equal the sign before one differs; -1 where none does."""
    turned = x ^ x.ashr(31)
    return turned.eq(0).select(-1, _count("ctlz", turned))


def _count(name: str, x: Lanes) -> Lanes:
    suffix = "i32" if x.count == 1 else f"v{x.count}i32"
    return x.function.intrinsic(x, f"llvm.{name}.{suffix}", x, "i1 false")


def middle(a: Lanes, b: Lanes, c: Lanes, signed: bool) -> Lanes:
    low, high = ("smin", "smax") if signed else ("umin", "umax")
    return a.call(high, b).call(low, a.call(low, b).call(high, c))


def byte_differences(a: Lanes, b: Lanes) -> Lanes:
    """The sum over the four bytes of |a - b|."""
    total = a.like(0)
    for shift in (0, 8, 16, 24):
        x, y = (a >> shift) & 255, (b >> shift) & 255
        total = total + (x.umax(y) - x.umin(y))
    return total


def masked_byte_differences(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """`byte_differences`, without the bytes where the reference `b` is 0."""
    total = c
    for shift in (0, 8, 16, 24):
        x, y = (a >> shift) & 255, (b >> shift) & 255
        total = total + y.eq(0).select(0, x.umax(y) - x.umin(y))
    return total


def averages(a: Lanes, b: Lanes, rounding: Lanes) -> Lanes:
    """Byte by byte (a + b + lowest bit of `rounding`) / 2."""
    total = a.like(0)
    for shift in (0, 8, 16, 24):
        pair = ((a >> shift) & 255) + ((b >> shift) & 255) + ((rounding >> shift) & 1)
        total = total | (pair >> 1) << shift
    return total


def lanes_below(x: Lanes, start: Lanes, first: int) -> Lanes:
    """`start` plus the ones of `x` at bits below this lane's number (counted from `first`)."""
    numbers = x.function.lane_numbers()
    mask = (x.like(1) << numbers) - 1 if first == 0 else x.like(0)
    return (x & mask).call("ctpop") + start


def packed(low: Lanes, high: Lanes) -> Lanes:
    """Two i16 as an i32."""
    return low.to("i32") | (high.to("i32") << 16)


def saturated_pair(a: Lanes, b: Lanes, signed: bool) -> Lanes:
    """Two i32 as an i16 pair, each the nearest that fits."""
    if signed:
        cut = [x.smax(-0x8000).smin(0x7FFF).to("i16") for x in (a, b)]
    else:
        cut = [x.umin(0xFFFF).to("i16") for x in (a, b)]
    return packed(*cut)


INTEGERS: dict[str, Operation] = {
    "v_mov_b32": op("i32", "i32", lambda a: a),
    "v_mov_b16": op("i16", "i16", lambda a: a),
    "v_not_b32": op("i32", "i32", lambda a: ~a),
    "v_not_b16": op("i16", "i16", lambda a: ~a),
    "v_bfrev_b32": op("i32", "i32", lambda a: a.call("bitreverse")),
    "v_clz_i32_u32": op("i32", "i32", leading_zeros),
    "v_ctz_i32_b32": op("i32", "i32", trailing_zeros),
    "v_cls_i32": op("i32", "i32", sign_bits),
    "v_cvt_i32_i16": op("i32", "i16", lambda a: a.to("i32", signed=True)),
    "v_cvt_u32_u16": op("i32", "i16", lambda a: a.to("i32")),
    "v_and_b32": op("i32", "i32 i32", lambda a, b: a & b),
    "v_or_b32": op("i32", "i32 i32", lambda a, b: a | b),
    "v_xor_b32": op("i32", "i32 i32", lambda a, b: a ^ b),
    "v_xnor_b32": op("i32", "i32 i32", lambda a, b: ~(a ^ b)),
    "v_and_b16": op("i16", "i16 i16", lambda a, b: a & b),
    "v_or_b16": op("i16", "i16 i16", lambda a, b: a | b),
    "v_xor_b16": op("i16", "i16 i16", lambda a, b: a ^ b),
    "v_add_nc_u32": op("i32", "i32 i32", lambda a, b: a + b),
    "v_sub_nc_u32": op("i32", "i32 i32", lambda a, b: a - b),
    "v_subrev_nc_u32": op("i32", "i32 i32", lambda a, b: b - a),
    "v_add_nc_i32": op("i32", "i32 i32", lambda a, b: a + b),
    "v_sub_nc_i32": op("i32", "i32 i32", lambda a, b: a - b),
    "v_add_nc_u16": op("i16", "i16 i16", lambda a, b: a + b),
    "v_sub_nc_u16": op("i16", "i16 i16", lambda a, b: a - b),
    "v_add_nc_i16": op("i16", "i16 i16", lambda a, b: a + b),
    "v_sub_nc_i16": op("i16", "i16 i16", lambda a, b: a - b),
    "v_mul_lo_u16": op("i16", "i16 i16", lambda a, b: a * b),
    "v_mad_u16": op("i16", "i16 i16 i16", lambda a, b, c: a * b + c),
    "v_mad_i16": op("i16", "i16 i16 i16", lambda a, b, c: a * b + c),
    "v_min_i32": op("i32", "i32 i32", lambda a, b: a.smin(b)),
    "v_max_i32": op("i32", "i32 i32", lambda a, b: a.smax(b)),
    "v_min_u32": op("i32", "i32 i32", lambda a, b: a.umin(b)),
    "v_max_u32": op("i32", "i32 i32", lambda a, b: a.umax(b)),
    "v_min_i16": op("i16", "i16 i16", lambda a, b: a.smin(b)),
    "v_max_i16": op("i16", "i16 i16", lambda a, b: a.smax(b)),
    "v_min_u16": op("i16", "i16 i16", lambda a, b: a.umin(b)),
    "v_max_u16": op("i16", "i16 i16", lambda a, b: a.umax(b)),
    "v_lshlrev_b32": op("i32", "i32 i32", lambda n, x: x << (n & 31)),
    "v_lshrrev_b32": op("i32", "i32 i32", lambda n, x: x >> (n & 31)),
    "v_ashrrev_i32": op("i32", "i32 i32", lambda n, x: x.ashr(n & 31)),
    "v_lshlrev_b16": op("i16", "i16 i16", lambda n, x: x << (n & 15)),
    "v_lshrrev_b16": op("i16", "i16 i16", lambda n, x: x >> (n & 15)),
    "v_ashrrev_i16": op("i16", "i16 i16", lambda n, x: x.ashr(n & 15)),
    "v_lshlrev_b64": op("i64", "i32 i64", lambda n, x: x << (n & 63).to("i64")),
    "v_lshrrev_b64": op("i64", "i32 i64", lambda n, x: x >> (n & 63).to("i64")),
    "v_ashrrev_i64": op("i64", "i32 i64", lambda n, x: x.ashr((n & 63).to("i64"))),
    "v_mul_lo_u32": op("i32", "i32 i32", lambda a, b: a * b),
    "v_mul_hi_u32": op("i32", "i32 i32", lambda a, b: high_product(a, b, False)),
    "v_mul_hi_i32": op("i32", "i32 i32", lambda a, b: high_product(a, b, True)),
    "v_mul_u32_u24": op("i32", "i32 i32", lambda a, b: unsigned24(a) * unsigned24(b)),
    "v_mul_i32_i24": op("i32", "i32 i32", lambda a, b: signed24(a) * signed24(b)),
    "v_mul_hi_u32_u24": op(
        "i32", "i32 i32", lambda a, b: high_product(unsigned24(a), unsigned24(b), False)
    ),
    "v_mul_hi_i32_i24": op(
        "i32", "i32 i32", lambda a, b: high_product(signed24(a), signed24(b), True)
    ),
    "v_mad_u32_u24": op(
        "i32", "i32 i32 i32", lambda a, b, c: unsigned24(a) * unsigned24(b) + c
    ),
    "v_mad_i32_i24": op("i32", "i32 i32 i32", lambda a, b, c: signed24(a) * signed24(b) + c),
    "v_mad_u32_u16": op(
        "i32", "i16 i16 i32", lambda a, b, c: a.to("i32") * b.to("i32") + c
    ),
    "v_mad_i32_i16": op(
        "i32", "i16 i16 i32", lambda a, b, c: a.to("i32", True) * b.to("i32", True) + c
    ),
    "v_bfe_u32": op("i32", "i32 i32 i32", field_unsigned),
    "v_bfe_i32": op("i32", "i32 i32 i32", field_signed),
    "v_bfi_b32": op("i32", "i32 i32 i32", lambda m, a, b: (m & a) | (~m & b)),
    "v_bfm_b32": op(
        "i32", "i32 i32", lambda n, at: ((n.like(1) << (n & 31)) - 1) << (at & 31)
    ),
    "v_alignbit_b32": op("i32", "i32 i32 i32", lambda a, b, n: a.call("fshr", b, n & 31)),
    "v_alignbyte_b32": op(
        "i32", "i32 i32 i32", lambda a, b, n: a.call("fshr", b, (n & 3) << 3)
    ),
    "v_xor3_b32": op("i32", "i32 i32 i32", lambda a, b, c: a ^ b ^ c),
    "v_or3_b32": op("i32", "i32 i32 i32", lambda a, b, c: a | b | c),
    "v_and_or_b32": op("i32", "i32 i32 i32", lambda a, b, c: (a & b) | c),
    "v_xad_u32": op("i32", "i32 i32 i32", lambda a, b, c: (a ^ b) + c),
    "v_add3_u32": op("i32", "i32 i32 i32", lambda a, b, c: a + b + c),
    "v_lshl_add_u32": op("i32", "i32 i32 i32", lambda a, n, c: (a << (n & 31)) + c),
    "v_add_lshl_u32": op("i32", "i32 i32 i32", lambda a, b, n: (a + b) << (n & 31)),
    "v_lshl_or_b32": op("i32", "i32 i32 i32", lambda a, n, c: (a << (n & 31)) | c),
    "v_min3_i32": op("i32", "i32 i32 i32", lambda a, b, c: a.smin(b).smin(c)),
    "v_max3_i32": op("i32", "i32 i32 i32", lambda a, b, c: a.smax(b).smax(c)),
    "v_min3_u32": op("i32", "i32 i32 i32", lambda a, b, c: a.umin(b).umin(c)),
    "v_max3_u32": op("i32", "i32 i32 i32", lambda a, b, c: a.umax(b).umax(c)),
    "v_min3_i16": op("i16", "i16 i16 i16", lambda a, b, c: a.smin(b).smin(c)),
    "v_max3_i16": op("i16", "i16 i16 i16", lambda a, b, c: a.smax(b).smax(c)),
    "v_min3_u16": op("i16", "i16 i16 i16", lambda a, b, c: a.umin(b).umin(c)),
    "v_max3_u16": op("i16", "i16 i16 i16", lambda a, b, c: a.umax(b).umax(c)),
    "v_med3_i32": op("i32", "i32 i32 i32", lambda a, b, c: middle(a, b, c, True)),
    "v_med3_u32": op("i32", "i32 i32 i32", lambda a, b, c: middle(a, b, c, False)),
    "v_med3_i16": op("i16", "i16 i16 i16", lambda a, b, c: middle(a, b, c, True)),
    "v_med3_u16": op("i16", "i16 i16 i16", lambda a, b, c: middle(a, b, c, False)),
    "v_maxmin_i32": op("i32", "i32 i32 i32", lambda a, b, c: a.smax(b).smin(c)),
    "v_minmax_i32": op("i32", "i32 i32 i32", lambda a, b, c: a.smin(b).smax(c)),
    "v_maxmin_u32": op("i32", "i32 i32 i32", lambda a, b, c: a.umax(b).umin(c)),
    "v_minmax_u32": op("i32", "i32 i32 i32", lambda a, b, c: a.umin(b).umax(c)),
    "v_sad_u8": op("i32", "i32 i32 i32", lambda a, b, c: byte_differences(a, b) + c),
    "v_sad_hi_u8": op("i32", "i32 i32 i32", lambda a, b, c: (byte_differences(a, b) << 16) + c),
    "v_sad_u16": op(
        "i32", "i32 i32 i32",
        lambda a, b, c: sum(
            (((a >> s) & 0xFFFF).umax((b >> s) & 0xFFFF)
             - ((a >> s) & 0xFFFF).umin((b >> s) & 0xFFFF) for s in (0, 16)),
            start=c,
        ),
    ),
    "v_sad_u32": op("i32", "i32 i32 i32", lambda a, b, c: a.umax(b) - a.umin(b) + c),
    "v_msad_u8": op("i32", "i32 i32 i32", masked_byte_differences),
    "v_lerp_u8": op("i32", "i32 i32 i32", averages),
    "v_bcnt_u32_b32": op("i32", "i32 i32", lambda a, b: a.call("ctpop") + b),
    "v_mbcnt_lo_u32_b32": op("i32", "i32 i32", lambda a, b: lanes_below(a, b, 0)),
    "v_mbcnt_hi_u32_b32": op("i32", "i32 i32", lambda a, b: lanes_below(a, b, WAVE)),
    "v_cvt_pk_u16_u32": op("i32", "i32 i32", lambda a, b: saturated_pair(a, b, False)),
    "v_cvt_pk_i16_i32": op("i32", "i32 i32", lambda a, b: saturated_pair(a, b, True)),
    "v_pack_b32_f16": op("i32", "i16 i16", packed),
    "v_sat_pk_u8_i16": op(
        "i16", "i32",
        lambda a: (
            (a << 16).ashr(16).smax(0).smin(255) | a.ashr(16).smax(0).smin(255) << 8
        ).to("i16"),
    ),
    "v_cndmask_b32": op("i32", "i32 i32 mask", lambda a, b, m: m.select(b, a)),
    "v_cndmask_b16": op("i16", "i16 i16 mask", lambda a, b, m: m.select(b, a)),
}  # fmt: skip

SATURATING: dict[str, str] = {
    "v_add_nc_u32": "uadd", "v_sub_nc_u32": "usub", "v_add_nc_i32": "sadd",
    "v_sub_nc_i32": "ssub", "v_add_nc_u16": "uadd", "v_sub_nc_u16": "usub",
    "v_add_nc_i16": "sadd", "v_sub_nc_i16": "ssub",
}  # fmt: skip
"""Operations whose clamp bit keeps the result in range instead of wrapping."""
