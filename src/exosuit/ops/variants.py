"""Which kernel of an op suits a target: the one place that knows.

Most kernels are written once. Those that depend on the shape of the machine have a variant for GPUs
in `ops.gpu` with the same parameters, so that whoever records a graph asks here and says the rest
once. Where layouts differ between the two (how weights are packed, how activations are interleaved)
they are made and read by variants of one kind only.
"""

from __future__ import annotations

from exosuit.kernel import Kernel, Target
from exosuit.ops import activations, attention, embedding, matmul, matmul_float, rotary, routing
from exosuit.ops.gpu.activations import arrange_gpu, quantise_gpu
from exosuit.ops.gpu.attention import attention_gpu, combine_gpu
from exosuit.ops.gpu.embedding import embed_gpu
from exosuit.ops.gpu.matmul import matmul_experts_gpu, matmul_gpu
from exosuit.ops.gpu.matmul_float import matmul_experts_float_gpu, matmul_float_gpu
from exosuit.ops.gpu.rotary import rope_and_cache_gpu
from exosuit.ops.gpu.routing import deal_gpu

ON_GPU: dict[Kernel, Kernel] = {
    activations.arrange: arrange_gpu,
    activations.quantise: quantise_gpu,
    attention.attention: attention_gpu,
    attention.combine: combine_gpu,
    embedding.embed: embed_gpu,
    matmul.matmul: matmul_gpu,
    matmul.matmul_experts: matmul_experts_gpu,
    matmul_float.matmul_experts_float: matmul_experts_float_gpu,
    matmul_float.matmul_float: matmul_float_gpu,
    rotary.rope_and_cache: rope_and_cache_gpu,
    routing.deal: deal_gpu,
}
"""Kernels in the shape of CPUs, and those that do their work on a GPU."""


def variant(kernel: Kernel, target: Target) -> Kernel:
    """The kernel that does on `target` what `kernel` says."""
    return ON_GPU.get(kernel, kernel) if target.is_gpu else kernel
