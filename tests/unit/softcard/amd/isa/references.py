"""What vector operations give, computed with NumPy and Python's fractions: the test's own word.

Written from AMD's RDNA3 ISA guide, not from the translator. Arrays come as the kind that a row
names; results are compared bit by bit, NaNs as equal to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

A = np.ndarray[Any, Any]
DTYPES = {
    "u16": np.uint16, "i16": np.int16, "u32": np.uint32, "i32": np.int32, "u64": np.uint64,
    "i64": np.int64, "f16": np.float16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip


def elementwise(function: Callable[..., Any], dtype: Any) -> Callable[..., A]:
    """A Python function of Python numbers, for arrays."""

    def over(*arrays: A) -> A:
        rows = zip(*(a.tolist() for a in arrays), strict=True)
        return np.array([function(*row) for row in rows], dtype)

    return over


# Floats ---------------------------------------------------------------------------------------


def nearest(exact: Fraction, dtype: Any) -> Any:
    """An exact number as the nearest float of a type, ties to even."""
    bits, lowest = {np.float16: (11, -24), np.float32: (24, -149), np.float64: (53, -1074)}[dtype]
    if exact == 0:
        return dtype(0)
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    step = Fraction(2) ** max(exponent - bits + 1, lowest)
    count = round(magnitude / step)  # Python rounds halves to even
    value = count * step
    largest = {np.float16: 65504, np.float32: 2**128 - 2**104,
               np.float64: 2**1024 - 2**971}[dtype]  # fmt: skip
    if value > largest:
        return dtype(-math.inf if exact < 0 else math.inf)
    return dtype(-float(value) if exact < 0 else float(value))


def fma(dtype: Any) -> Callable[..., A]:
    def one(a: Any, b: Any, c: Any) -> Any:
        if math.isinf(c) and math.isfinite(a) and math.isfinite(b):
            return c
        with np.errstate(all="ignore"):
            if not all(math.isfinite(float(x)) for x in (a, b, c)):
                return dtype(np.float64(a) * np.float64(b) + np.float64(c))
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        if exact == 0:  # the sign of a zero follows the rules of addition
            product = math.copysign(1, a) * math.copysign(1, b)
            both_zero = float(a) * float(b) == 0 and float(c) == 0
            negative = both_zero and product < 0 and math.copysign(1, c) < 0
            return dtype(-0.0 if negative else 0.0)
        return nearest(exact, dtype)

    return lambda a, b, c: np.array([one(*row) for row in zip(a, b, c, strict=True)], a.dtype)


def is_signalling(x: A) -> A:
    width = {2: 9, 4: 22, 8: 51}[x.itemsize]
    bits = x.view(f"u{x.itemsize}")
    return np.isnan(x) & ((bits >> bits.dtype.type(width)) & bits.dtype.type(1) == 0)


def minimum(*operands: A, largest: bool = False) -> A:
    """IEEE mode: a signalling NaN gives NaN; else numbers win over NaNs, -0 lies below +0."""
    a = operands[0]
    for b in operands[1:]:
        signalling = is_signalling(a) | is_signalling(b)
        first = (a > b) if largest else (a < b)
        sign = np.signbit(b) if largest else np.signbit(a)
        first |= (a == b) & sign
        found = np.where(np.isnan(b), a, np.where(np.isnan(a), b, np.where(first, a, b)))
        a = np.where(signalling, np.array(np.nan, found.dtype), found)
    return a


def maximum(*operands: A) -> A:
    return minimum(*operands, largest=True)


def median(a: A, b: A, c: A) -> A:
    most = maximum(a, b, c)
    found = np.where(most == a, maximum(b, c),
                     np.where(most == b, maximum(a, c), maximum(a, b)))  # fmt: skip
    any_nan = np.isnan(a) | np.isnan(b) | np.isnan(c)
    return np.where(any_nan, minimum(a, b, c), found)


def saturated(dtype: Any) -> Callable[[A], A]:
    information = np.iinfo(dtype)

    def one(x: float) -> int:
        if math.isnan(x):
            return 0
        return int(max(min(x, information.max), information.min))

    return elementwise(one, dtype)


def mantissa(x: A) -> A:
    found = np.frexp(x)[0]
    return np.where(np.isfinite(x), found, x).astype(x.dtype)


def exponent(x: A) -> A:
    return np.where(np.isfinite(x), np.frexp(np.where(np.isfinite(x), x, 0))[1], 0)


def ldexp(dtype: Any) -> Callable[[A, A], A]:
    def one(x: Any, n: int) -> Any:
        if not math.isfinite(x) or x == 0:
            return x
        value = nearest(Fraction(float(x)) * Fraction(2) ** max(min(int(n), 5000), -5000), dtype)
        return np.copysign(value, x)

    return lambda x, n: np.array([one(*row) for row in zip(x, n, strict=True)], dtype)


def fraction(x: A) -> A:
    largest = {2: 1 - 2**-11, 4: 1 - 2**-24, 8: 1 - 2**-53}[x.itemsize]
    return np.minimum(x - np.floor(x), x.dtype.type(largest))


def toward_zero_half(x: A) -> A:
    """The bits of the half next to a float towards zero."""

    def one(value: float) -> int:
        sign = 0x8000 if math.copysign(1, value) < 0 else 0
        if math.isnan(value):
            return sign | 0x7E00 | int(np.float32(value).view(np.uint32)) >> 13 & 0x3FF
        if math.isinf(value):
            return sign | 0x7C00
        magnitude = Fraction(abs(value))
        best, low, high = 0, 0, 0x7BFF
        while low <= high:
            middle = (low + high) // 2
            candidate = Fraction(float(np.uint16(middle).view(np.float16)))
            if candidate <= magnitude:
                best, low = middle, middle + 1
            else:
                high = middle - 1
        return sign | best

    return np.array([one(float(v)) for v in x], np.uint32)


def norm16(x: A, signed: bool) -> A:
    low, scale = (-1.0, 32767.0) if signed else (0.0, 65535.0)
    clipped = np.clip(np.nan_to_num(x.astype(np.float64), nan=0.0), low, 1.0)
    return np.rint(clipped * scale).astype(np.int64) & 0xFFFF


def pack(low: A, high: A) -> A:
    return (low.astype(np.uint32) & 0xFFFF) | (high.astype(np.uint32) << np.uint32(16))


# Integers -------------------------------------------------------------------------------------

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def s32(x: int) -> int:
    return (x & M32) - (1 << 32 if x & 1 << 31 else 0)


def s24(x: int) -> int:
    return (x & 0xFFFFFF) - (1 << 24 if x & 1 << 23 else 0)


def u32(function: Callable[..., int]) -> Callable[..., A]:
    return elementwise(lambda *row: function(*row) & M32, np.uint32)


def u64(function: Callable[..., int]) -> Callable[..., A]:
    return elementwise(lambda *row: function(*row) & M64, np.uint64)


def u16(function: Callable[..., int]) -> Callable[..., A]:
    return elementwise(lambda *row: function(*row) & 0xFFFF, np.uint16)


def bit_field_signed(x: int, offset: int, width: int) -> int:
    size = width & 31
    if size == 0:
        return 0
    found = ((s32(x) >> (offset & 31)) & M32) & ((1 << size) - 1)
    return found - (1 << size) if found >> (size - 1) else found


def permuted_bytes(a: int, b: int, selector: int) -> int:
    data = (a << 32 | b).to_bytes(8, "little")
    out = []
    for s in selector.to_bytes(4, "little"):
        if s < 8:
            out.append(data[s])
        elif s < 12:
            out.append(255 if data[(s - 8) * 2 + 1] & 128 else 0)
        else:
            out.append(0 if s == 12 else 255)
    return int.from_bytes(bytes(out), "little")


def clz(x: int) -> int:
    return 32 - x.bit_length() if x else M32


def cls(x: int) -> int:
    turned = x ^ (M32 if x >> 31 else 0)
    return 32 - turned.bit_length() if turned else M32


def bytes_of(x: int) -> bytes:
    return x.to_bytes(4, "little")


Row = tuple[str, str, Callable[..., A]]


def _floats() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for kind, dtype in (("f16", np.float16), ("f32", np.float32), ("f64", np.float64)):
        two, three = f"{kind} {kind}", f"{kind} {kind} {kind}"
        some: dict[str, tuple[str, Callable[..., A]]] = {
            "add": (two, lambda a, b: a + b),
            "sub": (two, lambda a, b: a - b),
            "subrev": (two, lambda a, b: b - a),
            "mul": (two, lambda a, b: a * b),
            "min": (two, minimum), "max": (two, maximum),
            "min3": (three, minimum), "max3": (three, maximum),
            "med3": (three, median),
            "fma": (three, fma(dtype)),
            "floor": (kind, np.floor), "ceil": (kind, np.ceil), "trunc": (kind, np.trunc),
            "rndne": (kind, np.rint), "fract": (kind, fraction),
            "frexp_mant": (kind, mantissa),
        }  # fmt: skip
        if kind != "f64":
            some["maxmin"] = three, lambda a, b, c: minimum(maximum(a, b), c)
            some["minmax"] = three, lambda a, b, c: maximum(minimum(a, b), c)
        if kind == "f64":
            for name in ("sub", "subrev", "min3", "max3", "med3"):
                del some[name]
        for name, (sources, function) in some.items():
            rows[f"v_{name}_{kind}"] = kind, sources, function
    return rows


def by_bytes(function: Callable[[int, int], int]) -> Callable[[int, int, int], int]:
    return lambda a, b, c: (
        c + sum(function(x, y) for x, y in zip(bytes_of(a), bytes_of(b), strict=True))
    )


REFERENCES: dict[str, Row] = {
    **_floats(),
    "v_ldexp_f32": ("f32", "f32 i32", ldexp(np.float32)),
    "v_ldexp_f64": ("f64", "f64 i32", ldexp(np.float64)),
    "v_ldexp_f16": ("f16", "f16 i16", ldexp(np.float16)),
    "v_frexp_exp_i32_f32": ("i32", "f32", exponent),
    "v_frexp_exp_i32_f64": ("i32", "f64", exponent),
    "v_frexp_exp_i16_f16": ("i16", "f16", exponent),
    "v_cvt_f16_f32": ("f16", "f32", lambda a: a.astype(np.float16)),
    "v_cvt_f32_f16": ("f32", "f16", lambda a: a.astype(np.float32)),
    "v_cvt_f32_f64": ("f32", "f64", lambda a: a.astype(np.float32)),
    "v_cvt_f64_f32": ("f64", "f32", lambda a: a.astype(np.float64)),
    "v_cvt_f32_i32": ("f32", "i32", lambda a: a.astype(np.float32)),
    "v_cvt_f32_u32": ("f32", "u32", lambda a: a.astype(np.float32)),
    "v_cvt_f64_i32": ("f64", "i32", lambda a: a.astype(np.float64)),
    "v_cvt_f64_u32": ("f64", "u32", lambda a: a.astype(np.float64)),
    "v_cvt_f16_i16": ("f16", "i16", lambda a: a.astype(np.float16)),
    "v_cvt_f16_u16": ("f16", "u16", lambda a: a.astype(np.float16)),
    "v_cvt_i32_f32": ("i32", "f32", saturated(np.int32)),
    "v_cvt_u32_f32": ("u32", "f32", saturated(np.uint32)),
    "v_cvt_i32_f64": ("i32", "f64", saturated(np.int32)),
    "v_cvt_u32_f64": ("u32", "f64", saturated(np.uint32)),
    "v_cvt_i16_f16": ("i16", "f16", saturated(np.int16)),
    "v_cvt_u16_f16": ("u16", "f16", saturated(np.uint16)),
    "v_cvt_floor_i32_f32": ("i32", "f32", lambda a: saturated(np.int32)(np.floor(a))),
    "v_cvt_off_f32_i4": (
        "f32", "u32", elementwise(lambda x: ((x & 15) - (16 if x & 8 else 0)) / 16, np.float32)
    ),
    **{
        f"v_cvt_f32_ubyte{k}": (
            "f32", "u32", elementwise(lambda x, k=k: float(x >> 8 * k & 255), np.float32)
        )
        for k in range(4)
    },
    "v_cvt_pk_rtz_f16_f32": (
        "u32", "f32 f32", lambda a, b: pack(toward_zero_half(a), toward_zero_half(b))
    ),
    "v_cvt_pk_i16_f32": (
        "u32", "f32 f32", lambda a, b: pack(saturated(np.int16)(a), saturated(np.int16)(b))
    ),
    "v_cvt_pk_u16_f32": (
        "u32", "f32 f32", lambda a, b: pack(saturated(np.uint16)(a), saturated(np.uint16)(b))
    ),
    "v_cvt_pk_u8_f32": (
        "u32", "f32 u32 u32",
        lambda x, n, into: elementwise(
            lambda v, k, w: w & ~(255 << 8 * (k & 3)) & M32 | v << 8 * (k & 3), np.uint32
        )(saturated(np.uint8)(x), n, into),
    ),
    "v_cvt_pk_i16_i32": (
        "u32", "i32 i32", lambda a, b: pack(np.clip(a, -32768, 32767), np.clip(b, -32768, 32767))
    ),
    "v_cvt_pk_u16_u32": (
        "u32", "u32 u32", lambda a, b: pack(np.minimum(a, 65535), np.minimum(b, 65535))
    ),
    "v_cvt_i32_i16": ("i32", "i16", lambda a: a.astype(np.int32)),
    "v_cvt_u32_u16": ("u32", "u16", lambda a: a.astype(np.uint32)),
    "v_mul_dx9_zero_f32": (
        "f32", "f32 f32", lambda a, b: np.where((a == 0) | (b == 0), np.float32(0), a * b)
    ),
    # Bits and integers
    "v_mov_b32": ("u32", "u32", lambda a: a),
    "v_mov_b16": ("u16", "u16", lambda a: a),
    "v_not_b32": ("u32", "u32", lambda a: ~a),
    "v_not_b16": ("u16", "u16", lambda a: ~a),
    "v_bfrev_b32": ("u32", "u32", u32(lambda x: int(f"{x:032b}"[::-1], 2))),
    "v_clz_i32_u32": ("u32", "u32", u32(clz)),
    "v_ctz_i32_b32": ("u32", "u32", u32(lambda x: (x & -x).bit_length() - 1)),
    "v_cls_i32": ("u32", "u32", u32(cls)),
    "v_and_b32": ("u32", "u32 u32", lambda a, b: a & b),
    "v_or_b32": ("u32", "u32 u32", lambda a, b: a | b),
    "v_xor_b32": ("u32", "u32 u32", lambda a, b: a ^ b),
    "v_xnor_b32": ("u32", "u32 u32", lambda a, b: ~(a ^ b)),
    "v_and_b16": ("u16", "u16 u16", lambda a, b: a & b),
    "v_or_b16": ("u16", "u16 u16", lambda a, b: a | b),
    "v_xor_b16": ("u16", "u16 u16", lambda a, b: a ^ b),
    "v_add_nc_u32": ("u32", "u32 u32", lambda a, b: a + b),
    "v_sub_nc_u32": ("u32", "u32 u32", lambda a, b: a - b),
    "v_subrev_nc_u32": ("u32", "u32 u32", lambda a, b: b - a),
    "v_add_nc_i32": ("u32", "u32 u32", lambda a, b: a + b),
    "v_sub_nc_i32": ("u32", "u32 u32", lambda a, b: a - b),
    "v_add_nc_u16": ("u16", "u16 u16", lambda a, b: a + b),
    "v_sub_nc_u16": ("u16", "u16 u16", lambda a, b: a - b),
    "v_add_nc_i16": ("u16", "u16 u16", lambda a, b: a + b),
    "v_sub_nc_i16": ("u16", "u16 u16", lambda a, b: a - b),
    "v_mul_lo_u16": ("u16", "u16 u16", lambda a, b: a * b),
    "v_mad_u16": ("u16", "u16 u16 u16", lambda a, b, c: a * b + c),
    "v_mad_i16": ("u16", "u16 u16 u16", lambda a, b, c: a * b + c),
    "v_mul_lo_u32": ("u32", "u32 u32", lambda a, b: a * b),
    "v_mul_hi_u32": ("u32", "u32 u32", u32(lambda a, b: a * b >> 32)),
    "v_mul_hi_i32": ("u32", "i32 i32", u32(lambda a, b: a * b >> 32)),
    "v_mul_u32_u24": ("u32", "u32 u32", u32(lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF))),
    "v_mul_i32_i24": ("u32", "u32 u32", u32(lambda a, b: s24(a) * s24(b))),
    "v_mul_hi_u32_u24": (
        "u32", "u32 u32", u32(lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 32)
    ),
    "v_mul_hi_i32_i24": ("u32", "u32 u32", u32(lambda a, b: s24(a) * s24(b) >> 32)),
    "v_mad_u32_u24": (
        "u32", "u32 u32 u32", u32(lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c)
    ),
    "v_mad_i32_i24": ("u32", "u32 u32 u32", u32(lambda a, b, c: s24(a) * s24(b) + c)),
    "v_mad_u32_u16": ("u32", "u16 u16 u32", u32(lambda a, b, c: a * b + c)),
    "v_mad_i32_i16": ("u32", "i16 i16 u32", u32(lambda a, b, c: a * b + c)),
    "v_min_i32": ("i32", "i32 i32", np.minimum), "v_max_i32": ("i32", "i32 i32", np.maximum),
    "v_min_u32": ("u32", "u32 u32", np.minimum), "v_max_u32": ("u32", "u32 u32", np.maximum),
    "v_min_i16": ("i16", "i16 i16", np.minimum), "v_max_i16": ("i16", "i16 i16", np.maximum),
    "v_min_u16": ("u16", "u16 u16", np.minimum), "v_max_u16": ("u16", "u16 u16", np.maximum),
    **{
        f"v_{name}_{kind}": (kind, f"{kind} {kind} {kind}", elementwise(function, DTYPES[kind]))
        for kind in ("i32", "u32", "i16", "u16")
        for name, function in (
            ("min3", min), ("max3", max), ("med3", lambda a, b, c: sorted((a, b, c))[1])
        )
    },
    **{
        f"v_{name}_{kind}": (kind, f"{kind} {kind} {kind}", elementwise(function, DTYPES[kind]))
        for kind in ("i32", "u32")
        for name, function in (
            ("maxmin", lambda a, b, c: min(max(a, b), c)),
            ("minmax", lambda a, b, c: max(min(a, b), c)),
        )
    },
    "v_lshlrev_b32": ("u32", "u32 u32", u32(lambda n, x: x << (n & 31))),
    "v_lshrrev_b32": ("u32", "u32 u32", u32(lambda n, x: x >> (n & 31))),
    "v_ashrrev_i32": ("u32", "u32 i32", u32(lambda n, x: x >> (n & 31))),
    "v_lshlrev_b16": ("u16", "u16 u16", u16(lambda n, x: x << (n & 15))),
    "v_lshrrev_b16": ("u16", "u16 u16", u16(lambda n, x: x >> (n & 15))),
    "v_ashrrev_i16": ("u16", "u16 i16", u16(lambda n, x: x >> (n & 15))),
    "v_lshlrev_b64": ("u64", "u32 u64", u64(lambda n, x: x << (n & 63))),
    "v_lshrrev_b64": ("u64", "u32 u64", u64(lambda n, x: x >> (n & 63))),
    "v_ashrrev_i64": ("u64", "u32 i64", u64(lambda n, x: x >> (n & 63))),
    "v_bfe_u32": (
        "u32", "u32 u32 u32", u32(lambda x, o, w: (x >> (o & 31)) & ((1 << (w & 31)) - 1))
    ),
    "v_bfe_i32": ("u32", "u32 u32 u32", u32(bit_field_signed)),
    "v_bfi_b32": ("u32", "u32 u32 u32", u32(lambda m, a, b: (m & a) | (~m & b))),
    "v_bfm_b32": ("u32", "u32 u32", u32(lambda n, at: ((1 << (n & 31)) - 1) << (at & 31))),
    "v_alignbit_b32": ("u32", "u32 u32 u32", u32(lambda a, b, n: (a << 32 | b) >> (n & 31))),
    "v_alignbyte_b32": (
        "u32", "u32 u32 u32", u32(lambda a, b, n: (a << 32 | b) >> 8 * (n & 3))
    ),
    "v_xor3_b32": ("u32", "u32 u32 u32", lambda a, b, c: a ^ b ^ c),
    "v_or3_b32": ("u32", "u32 u32 u32", lambda a, b, c: a | b | c),
    "v_and_or_b32": ("u32", "u32 u32 u32", lambda a, b, c: (a & b) | c),
    "v_xad_u32": ("u32", "u32 u32 u32", lambda a, b, c: (a ^ b) + c),
    "v_add3_u32": ("u32", "u32 u32 u32", lambda a, b, c: a + b + c),
    "v_lshl_add_u32": ("u32", "u32 u32 u32", u32(lambda a, n, c: (a << (n & 31)) + c)),
    "v_add_lshl_u32": ("u32", "u32 u32 u32", u32(lambda a, b, n: (a + b & M32) << (n & 31))),
    "v_lshl_or_b32": ("u32", "u32 u32 u32", u32(lambda a, n, c: (a << (n & 31)) | c)),
    "v_perm_b32": ("u32", "u32 u32 u32", u32(permuted_bytes)),
    "v_sad_u8": ("u32", "u32 u32 u32", u32(by_bytes(lambda x, y: abs(x - y)))),
    "v_msad_u8": ("u32", "u32 u32 u32", u32(by_bytes(lambda x, y: abs(x - y) if y else 0))),
    "v_sad_hi_u8": (
        "u32", "u32 u32 u32",
        u32(lambda a, b, c: (by_bytes(lambda x, y: abs(x - y))(a, b, 0) << 16) + c),
    ),
    "v_sad_u16": (
        "u32", "u32 u32 u32",
        u32(lambda a, b, c: c + abs((a & 0xFFFF) - (b & 0xFFFF)) + abs((a >> 16) - (b >> 16))),
    ),
    "v_sad_u32": ("u32", "u32 u32 u32", u32(lambda a, b, c: abs(a - b) + c)),
    "v_lerp_u8": (
        "u32", "u32 u32 u32",
        u32(lambda a, b, c: int.from_bytes(bytes(
            (x + y + (z & 1)) >> 1
            for x, y, z in zip(bytes_of(a), bytes_of(b), bytes_of(c), strict=True)
        ), "little")),
    ),
    "v_bcnt_u32_b32": ("u32", "u32 u32", u32(lambda a, b: a.bit_count() + b)),
    "v_pack_b32_f16": ("u32", "u16 u16", pack),
    "v_sat_pk_u8_i16": (
        "u16", "u32",
        u16(lambda x: max(0, min(255, (x & 0xFFFF) - (0x10000 if x & 0x8000 else 0)))
            | max(0, min(255, s32(x) >> 16)) << 8),
    ),
}  # fmt: skip
