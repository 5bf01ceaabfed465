"""Which of the small ops compile for which targets: those written with `each` do for all."""

from __future__ import annotations

import pytest

from exosuit.kernel import Target, compile_kernel
from exosuit.ops.argmax import argmax, argmax_parts
from exosuit.ops.attention import Attention, attention, combine
from exosuit.ops.cache import CacheFormat
from exosuit.ops.elementwise import activate, add, gated, scale, softcap
from exosuit.ops.encoding import attend_span, mean_of_span, turn_keys
from exosuit.ops.norm import add_rms_norm, layer_norm, rms_norm
from exosuit.ops.rotary import Heads, rope_and_cache, rope_angles
from exosuit.ops.routing import Routing, collect, deal, route
from exosuit.ops.sampling import sample

_NORM = {"width": 576, "eps": 1e-5}
_ROUTING = {"routing": Routing(experts=60, chosen=4, renormalise=True, scale=1.0, tile=16)}
EVERYWHERE = {
    rms_norm: _NORM,
    add_rms_norm: _NORM,
    layer_norm: _NORM,
    add: {},
    scale: {},
    softcap: {"cap": 30.0},
    gated: {"width": 576, "activation": "silu"},
    activate: {"activation": "gelu"},
    turn_keys: {"width": 384},
    attend_span: {"heads": 12, "head_dim": 32, "longest": 512},
    mean_of_span: {"width": 384},
    rope_angles: {"dims": 64},
    route: _ROUTING,
    deal: _ROUTING,
    collect: {"width": 576, "chosen": 4},
    argmax_parts: {"vocabulary": 49152, "parts": 16},
    argmax: {"parts": 16},
}
_CACHE = CacheFormat("q8", 3, 64)
_ATTENTION = {"shape": Attention(_CACHE, 9, tile_tokens=16, splits=2, window=100, softcap=50.0)}
ON_CPUS = {
    attention: _ATTENTION,
    combine: _ATTENTION,
    rope_and_cache: {"heads": Heads(_CACHE, 9, 64, "halves", 0.125, 1e-6), "stride": 960},
    sample: {"vocabulary": 49152, "biases": 4},
}


@pytest.mark.parametrize("name", ["gfx1100", "gfx1201", "sm_80", "sm_90"])
def test_everywhere(name):
    target = Target.named(name)
    for kernel, static in EVERYWHERE.items():
        assert compile_kernel(kernel, target, **static).code, kernel.name


@pytest.mark.parametrize("name", ["x86-64-avx2", "x86-64-avx512", "aarch64-neon", "aarch64-i8mm"])
def test_on_cpus(name):
    target = Target.named(name)
    for kernel, static in (EVERYWHERE | ON_CPUS).items():
        assert compile_kernel(kernel, target, **static).code, kernel.name
