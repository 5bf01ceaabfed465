"""The inventory of a model's programs against what a device that computes asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.softcard.ptx_device import PtxDevice

from exosuit.engine.runner import open_runner
from exosuit.kernel import Target
from exosuit.kernel.packs import Wanted
from exosuit.models.inventory import programs_of
from exosuit.ops.programs import Programs
from exosuit.ops.variants import variant


@pytest.mark.parametrize("stored", ["f32", "q8_0"])
def test_nothing_that_a_device_needs_is_missing(
    stored: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared / "models/stories260k" / f"stories260K-{stored}.gguf"
    target, asked = Target.named("sm_90"), dict[str, Wanted]()
    plain = Programs.get

    def noted(self, kernel, **static):
        wanted = Wanted.of(variant(kernel, target), static)
        asked[wanted.key] = wanted
        return plain(self, kernel, **static)

    device = PtxDevice("sm_90")
    with monkeypatch.context() as patch:
        patch.setattr(Programs, "get", noted)
        file, runner, _ = open_runner(path, device, tmp_path, context=256)
        runner.score(list(range(1, 6)))
        runner.model.recording(1, 1, continues=True)
        runner.close()
        file.close()
    device.close()
    found = {each.key for each in programs_of(path, target, [device.parallel_groups], context=256)}
    missing = [str(each) for key, each in asked.items() if key not in found]
    assert len(asked) > 8
    assert not missing
