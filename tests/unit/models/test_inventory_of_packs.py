"""What packs are made of is all that a model asks for, on cards and in contexts of every size."""

from __future__ import annotations

from pathlib import Path

from exosuit.cli.kernel_pack import CACHES, PARALLEL_GROUPS, every_split
from exosuit.engine.runner import step_size
from exosuit.kernel import Target
from exosuit.models.inventory import programs_of
from exosuit.ops.attention_tile import Attention


def test_nothing_is_missing(shared: Path) -> None:
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    target = Target.named("sm_90")
    recorded = programs_of(path, target, (PARALLEL_GROUPS,), cache_kinds=CACHES)
    packed = {one.key for each in recorded for one in every_split(each)}
    steps = sorted({step_size(tokens) for tokens in (*range(1, 65), 112, 480)})
    for groups, context in ((56, 64), (92, 512), (340, 4096)):
        for each in programs_of(path, target, (groups,), context, CACHES, steps):
            assert each.key in packed, (groups, context, each)


def test_splits_of_attention() -> None:
    from exosuit.kernel.packs import Wanted
    from exosuit.ops.cache import CacheFormat
    from exosuit.ops.gpu.attention import attention_gpu, combine_gpu
    from exosuit.ops.norm import rms_norm

    cache = CacheFormat("f16", 8, 128)
    one, four = (Attention(cache, 32, 1, splits=splits) for splits in (1, 4))
    for kernel in (attention_gpu, combine_gpu):
        assert len(every_split(Wanted.of(kernel, {"shape": one}))) == 1
        found = {
            dict(w.static)["shape"].splits for w in every_split(Wanted.of(kernel, {"shape": four}))
        }
        assert found == {1, 2, 4, 8, 16}
    other = Wanted.of(rms_norm, {"width": 64})
    assert every_split(other) == [other]
