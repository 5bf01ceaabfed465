"""Vector operations on floats and conversions: what a lane's result is, name by name.

f16 operations are computed in f32 and rounded once at the end, which is exact for sums, products
and quotients; fused ones take care of themselves (`fma_half`). Transcendental operations are
routines; AMD gives them about one unit in the last place, ours are nearer. They know no denormals.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.softcard.amd.isa.integers import packed
from exosuit.softcard.amd.isa.operation import Operation, op
from exosuit.softcard.translation.ir import Lanes

_WIDTH = {"float": (23, 8, "i32"), "double": (52, 11, "i64")}


def minimum(a: Lanes, b: Lanes) -> Lanes:
    """The lesser number, -0 before +0; of a number and a NaN the number."""
    return _chosen(a, b, "olt")


def maximum(a: Lanes, b: Lanes) -> Lanes:
    return _chosen(a, b, "ogt")


def _chosen(a: Lanes, b: Lanes, predicate: str) -> Lanes:
    if a.text == b.text:  # how compilers make a NaN quiet
        return a.compare("uno", a).select(a + a, a)
    found = b.compare("uno", b).select(a, a.compare(predicate, b).select(a, b))
    # Equal numbers differ at most in the sign of zero.
    x, y = a.view(f"i{a.bits}"), b.view(f"i{b.bits}")
    found = a.eq(b).select((x | y if predicate == "olt" else x & y).view(a.kind), found)
    if not a.function.ieee:
        return found
    return (is_signalling(a) | is_signalling(b)).select(found.like(float("nan")), found)


def is_signalling(x: Lanes) -> Lanes:
    """Whether a float is a NaN whose quiet bit is not set."""
    width, size, integer = _WIDTH[x.kind]
    quiet = 1 << (width - 1)
    infinity = ((1 << size) - 1) << width
    # With the quiet bit turned, signalling NaNs are all that lies above infinity with it.
    return ((x.view(integer) ^ quiet) << 1).compare("ugt", (infinity | quiet) << 1)


def middle(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """The second of three; with a NaN among them the least."""
    most = maximum(maximum(a, b), c)
    without_b = most.eq(b).select(maximum(a, c), maximum(a, b))
    found = most.eq(a).select(maximum(b, c), without_b)
    any_nan = a.compare("uno", b) | c.compare("uno", c)
    return any_nan.select(minimum(minimum(a, b), c), found)


def fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    return a.fma(b, c)


def fma_half(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """A * b + c of halves as floats, such that one rounding to half gives the right result.

    The product is exact in f32; the sum is rounded to odd, which no later rounding can spoil.
    """
    product = a * b
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    bits = total.view("i32")
    # Where the sum is not exact and its last bit is 0, the neighbour towards the exact sum is odd.
    away = (error.view("i32") ^ bits).ashr(31) | 1
    inexact = error.compare("one", 0.0)
    even = (bits & 1).eq(0)
    return (inexact & even).select(bits + away, bits).view("float")


def multiply_or_zero(a: Lanes, b: Lanes) -> Lanes:
    """A product in which zero times anything is zero."""
    zero = a.eq(0.0).select(a.like(0.0), a * b)
    return b.eq(0.0).select(zero.like(0.0), zero)


def power_of_two(exponent: Lanes, kind: str) -> Lanes:
    """2 ** exponent as a float of `kind`, for exponents of its normal numbers."""
    mantissa, size, integer = _WIDTH[kind]
    wide = exponent.to(integer, signed=True)
    return ((wide + ((1 << (size - 1)) - 1)) << mantissa).view(kind)


def scaled(x: Lanes, exponent: Lanes) -> Lanes:
    """X * 2 ** exponent, rounded once."""
    if x.kind == "float":
        near = exponent.smax(-400).smin(400)
        return (x.to("double") * power_of_two(near, "double")).to("float")
    # Steps down are chosen so that only the last one can reach the denormals.
    for _ in range(2):
        up, down = exponent.compare("sgt", 1023), exponent.compare("slt", -1022)
        x = up.select(x * 2.0**1023, down.select(x * 2.0**-969, x))
        exponent = up.select(exponent - 1023, down.select(exponent + 969, exponent))
    return x * power_of_two(exponent.smax(-1022).smin(1023), "double")


def _normal(x: Lanes) -> tuple[Lanes, Lanes]:
    """Bits of |x|, denormals scaled to normal numbers, and the biased exponent of x itself."""
    mantissa, size, integer = _WIDTH[x.kind]
    smallest = 2.0 ** (2 - (1 << (size - 1)))
    magnitude = x.absolute()
    small = magnitude.compare("olt", smallest)
    bits = small.select(magnitude * 2.0**64, magnitude).view(integer)
    exponent = (bits >> mantissa) - small.select(bits.like(64), 0)
    return bits, exponent


def mantissa_of(x: Lanes) -> Lanes:
    """X scaled into [0.5, 1); zero, infinities and NaN as they are."""
    width, size, _ = _WIDTH[x.kind]
    bits, _ = _normal(x)
    half = ((1 << (size - 1)) - 2) << width
    found = ((bits & ((1 << width) - 1)) | half).view(x.kind).call("copysign", x)
    return _is_number(x).select(found, x)


def exponent_of(x: Lanes) -> Lanes:
    """The power of two that `mantissa_of` took out, i32; 0 for zero, infinities and NaN."""
    _, size, _ = _WIDTH[x.kind]
    _, exponent = _normal(x)
    return _is_number(x).select((exponent - ((1 << (size - 1)) - 2)).to("i32"), 0)


def _is_number(x: Lanes) -> Lanes:
    """Finite and not zero."""
    magnitude = x.absolute()
    return magnitude.compare("one", float("inf")) & magnitude.compare("ogt", 0.0)


def fraction(x: Lanes) -> Lanes:
    """X - floor(x), always less than 1."""
    largest = {"float": 1 - 2.0**-24, "double": 1 - 2.0**-53}[x.kind]
    found = x - x.call("floor")
    return found.compare("ogt", largest).select(found.like(largest), found)


def fraction_half(x: Lanes) -> Lanes:
    found = x - x.call("floor")
    return found.compare("ogt", 1 - 2.0**-11).select(found.like(1 - 2.0**-11), found)


def rounded_to_zero(a: Lanes) -> Lanes:
    """The bits of the half next to `a` towards zero, i16."""
    half = a.to("half")
    beyond = half.to("float").absolute().compare("ogt", a.absolute())
    bits = half.view("i16")
    return beyond.select(bits - 1, bits)


def nearest_integer(x: Lanes) -> Lanes:
    return (x + 0.5).call("floor").saturated("i32", signed=True)


def normalised(x: Lanes, signed: bool) -> Lanes:
    """-1..1 (0..1) as the whole range of an i16 (u16), rounded to even."""
    if signed:
        scaled_up = minimum(maximum(x, x.like(-1.0)), x.like(1.0)) * 32767.0
    else:
        scaled_up = minimum(maximum(x, x.like(0.0)), x.like(1.0)) * 65535.0
    return scaled_up.call("roundeven").saturated("i16", signed)


def byte_inserted(x: Lanes, which: Lanes, into: Lanes) -> Lanes:
    """A float as an unsigned byte, put in the place of byte `which` of `into`."""
    shift = (which & 3) << 3
    value = x.saturated("i8", signed=False).to("i32")
    return (into & ~(shift.like(255) << shift)) | (value << shift)


def division_fixup(quotient: Lanes, denominator: Lanes, numerator: Lanes) -> Lanes:
    """The quotient, or what a division by or of special values gives."""
    kind = quotient.kind
    mantissa, size, integer = _WIDTH[kind]
    sign = (denominator.view(integer) ^ numerator.view(integer)) & (1 << (mantissa + size))
    signed_zero = sign.view(kind)
    infinity = signed_zero.like(float("inf")).call("copysign", signed_zero)
    plain = quotient.absolute().call("copysign", signed_zero)
    # An estimate that overflowed has become NaN in the steps after it.
    plain = quotient.compare("uno", quotient).select(infinity, plain)
    top, bottom = numerator.absolute(), denominator.absolute()
    exponents = [
        (x.view(integer) >> mantissa) & ((1 << size) - 1) for x in (numerator, denominator)
    ]
    limit = {"float": -150, "double": -1075}[kind]
    result = (exponents[0] - exponents[1]).compare("slt", limit).select(signed_zero, plain)
    result = bottom.eq(float("inf")).select(signed_zero, result)
    result = top.eq(0.0).select(signed_zero, result)
    result = bottom.eq(0.0).select(infinity, result)
    result = top.eq(float("inf")).select(infinity, result)
    infinite = top.eq(float("inf")) & bottom.eq(float("inf"))
    undefined = infinite | (top.eq(0.0) & bottom.eq(0.0))
    result = undefined.select(result.like(float("nan")), result)
    result = denominator.compare("uno", denominator).select(denominator + denominator, result)
    return numerator.compare("uno", numerator).select(numerator + numerator, result)


def _byte_picker(number: int) -> Callable[[Lanes], Lanes]:
    return lambda x: ((x >> (8 * number)) & 255).to("float")


def four_bit_fraction(x: Lanes) -> Lanes:
    """A signed four-bit number as sixteenths."""
    return (((x & 15) ^ 8) - 8).to("float", signed=True) * 0.0625


def _arithmetic(kind: str, name: str) -> dict[str, Operation]:
    """What f16, f32 and f64 share."""
    one, two, three = kind, f"{kind} {kind}", f"{kind} {kind} {kind}"
    fused = fma_half if kind == "half" else fma
    rows = {
        "add": op(kind, two, lambda a, b: a + b),
        "sub": op(kind, two, lambda a, b: a - b),
        "subrev": op(kind, two, lambda a, b: b - a),
        "mul": op(kind, two, lambda a, b: a * b),
        "min": op(kind, two, minimum, chooses=True),
        "max": op(kind, two, maximum, chooses=True),
        "min3": op(kind, three, lambda a, b, c: minimum(minimum(a, b), c), chooses=True),
        "max3": op(kind, three, lambda a, b, c: maximum(maximum(a, b), c), chooses=True),
        "med3": op(kind, three, middle, chooses=True),
        "maxmin": op(kind, three, lambda a, b, c: minimum(maximum(a, b), c), chooses=True),
        "minmax": op(kind, three, lambda a, b, c: maximum(minimum(a, b), c), chooses=True),
        "fma": op(kind, three, fused),
        "fmac": op(kind, two, fused, accumulates=True),
        "fmaak": op(kind, three, fused),
        "fmamk": op(kind, three, fused),
        "floor": op(kind, one, lambda a: a.call("floor")),
        "ceil": op(kind, one, lambda a: a.call("ceil")),
        "trunc": op(kind, one, lambda a: a.call("trunc")),
        "rndne": op(kind, one, lambda a: a.call("roundeven")),
        "sqrt": op(kind, one, lambda a: a.call("sqrt")),
        "fract": op(kind, one, fraction_half if kind == "half" else fraction),
        "frexp_mant": op(kind, one, mantissa_of),
        "ldexp": op(kind, f"{kind} {'i16' if kind == 'half' else 'i32'}", scaled),
    }
    return {f"v_{row}_{name}": operation for row, operation in rows.items()}


FLOATS: dict[str, Operation] = {
    **_arithmetic("half", "f16"),
    **_arithmetic("float", "f32"),
    **_arithmetic("double", "f64"),
    "v_ldexp_f16": op("half", "half i16", lambda x, n: scaled(x, n.to("i32", signed=True))),
    "v_frexp_exp_i32_f32": op("i32", "float", exponent_of),
    "v_frexp_exp_i32_f64": op("i32", "double", exponent_of),
    "v_frexp_exp_i16_f16": op("i16", "half", lambda x: exponent_of(x).to("i16")),
    "v_mul_dx9_zero_f32": op("float", "float float", multiply_or_zero),
    "v_fmac_dx9_zero_f32": op(
        "float", "float float", lambda a, b, c: multiply_or_zero(a, b) + c, accumulates=True
    ),
    "v_fma_dx9_zero_f32": op(
        "float", "float float float", lambda a, b, c: multiply_or_zero(a, b) + c
    ),
    "v_rcp_f16": op("half", "half", lambda a: a.like(1.0) / a),
    "v_rsq_f16": op("half", "half", lambda a: a.like(1.0) / a.call("sqrt")),
    "v_rcp_f64": op("double", "double", lambda a: a.like(1.0) / a),
    "v_rsq_f64": op("double", "double", lambda a: a.like(1.0) / a.call("sqrt")),
    "v_div_fixup_f32": op("float", "float float float", division_fixup),
    "v_div_fixup_f64": op("double", "double double double", division_fixup),
    "v_div_fixup_f16": op("half", "half half half", division_fixup),
    # Conversions
    "v_cvt_f16_f32": op("half", "float", lambda a: a),
    "v_cvt_f32_f16": op("float", "half", lambda a: a),
    "v_cvt_f32_f64": op("float", "double", lambda a: a.to("float")),
    "v_cvt_f64_f32": op("double", "float", lambda a: a.to("double")),
    "v_cvt_f32_i32": op("float", "i32", lambda a: a.to("float", signed=True)),
    "v_cvt_f32_u32": op("float", "i32", lambda a: a.to("float")),
    "v_cvt_f64_i32": op("double", "i32", lambda a: a.to("double", signed=True)),
    "v_cvt_f64_u32": op("double", "i32", lambda a: a.to("double")),
    "v_cvt_f16_i16": op("half", "i16", lambda a: a.to("float", signed=True)),
    "v_cvt_f16_u16": op("half", "i16", lambda a: a.to("float")),
    "v_cvt_i32_f32": op("i32", "float", lambda a: a.saturated("i32", signed=True)),
    "v_cvt_u32_f32": op("i32", "float", lambda a: a.saturated("i32", signed=False)),
    "v_cvt_i32_f64": op("i32", "double", lambda a: a.saturated("i32", signed=True)),
    "v_cvt_u32_f64": op("i32", "double", lambda a: a.saturated("i32", signed=False)),
    "v_cvt_i16_f16": op("i16", "half", lambda a: a.saturated("i16", signed=True)),
    "v_cvt_u16_f16": op("i16", "half", lambda a: a.saturated("i16", signed=False)),
    "v_cvt_nearest_i32_f32": op("i32", "float", nearest_integer),
    "v_cvt_floor_i32_f32": op(
        "i32", "float", lambda a: a.call("floor").saturated("i32", signed=True)
    ),
    "v_cvt_off_f32_i4": op("float", "i32", four_bit_fraction),
    **{
        f"v_cvt_f32_ubyte{k}": op("float", "i32", _byte_picker(k))
        for k in range(4)
    },
    "v_cvt_norm_i16_f16": op("i16", "half", lambda a: normalised(a, True)),
    "v_cvt_norm_u16_f16": op("i16", "half", lambda a: normalised(a, False)),
    "v_cvt_pk_rtz_f16_f32": op(
        "i32", "float float", lambda a, b: packed(rounded_to_zero(a), rounded_to_zero(b))
    ),
    "v_cvt_pk_norm_i16_f32": op(
        "i32", "float float", lambda a, b: packed(normalised(a, True), normalised(b, True))
    ),
    "v_cvt_pk_norm_u16_f32": op(
        "i32", "float float", lambda a, b: packed(normalised(a, False), normalised(b, False))
    ),
    "v_cvt_pk_norm_i16_f16": op(
        "i32", "half half", lambda a, b: packed(normalised(a, True), normalised(b, True))
    ),
    "v_cvt_pk_norm_u16_f16": op(
        "i32", "half half", lambda a, b: packed(normalised(a, False), normalised(b, False))
    ),
    "v_cvt_pk_i16_f32": op(
        "i32", "float float",
        lambda a, b: packed(a.saturated("i16", signed=True), b.saturated("i16", signed=True)),
    ),
    "v_cvt_pk_u16_f32": op(
        "i32", "float float",
        lambda a, b: packed(a.saturated("i16", signed=False), b.saturated("i16", signed=False)),
    ),
    "v_cvt_pk_u8_f32": op("i32", "float i32 i32", byte_inserted),
}  # fmt: skip

ROUTINES: dict[str, tuple[str, str]] = {
    "v_exp_f32": ("float", "exp2"),
    "v_log_f32": ("float", "log2"),
    "v_sin_f32": ("float", "sine"),
    "v_cos_f32": ("float", "cosine"),
    "v_rcp_f32": ("float", "reciprocal"),
    "v_rcp_iflag_f32": ("float", "reciprocal"),
    "v_rsq_f32": ("float", "inverse_root"),
    "v_exp_f16": ("half", "exp2"),
    "v_log_f16": ("half", "log2"),
    "v_sin_f16": ("half", "sine"),
    "v_cos_f16": ("half", "cosine"),
}
"""Operations of one operand that a routine computes: kind and routine."""
