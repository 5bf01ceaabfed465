"""`exosuit kernels pack`: wrong use. What it makes is for `tests/unit/kernel/test_packs.py`."""

from __future__ import annotations

import pytest

from exosuit.cli import kernel_pack
from exosuit.cli.main import main
from exosuit.kernel import Target
from exosuit.kernel.assembler import Assembler, find_ptxas
from exosuit.kernel.packs import Pack, Wanted
from exosuit.ops.gpu.typical import typical_launches


def test_without_an_assembler(capsys, monkeypatch):
    monkeypatch.setattr("exosuit.kernel.assembler.find_ptxas", lambda: None)
    assert main(["kernels", "pack"]) == 2
    assert "pip install nvidia-cuda-nvcc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["pack", "--target", "gfx1100"], "there are no packs for gfx1100"),
        (["rms_norm", "model.gguf"], "takes no files"),
    ],
)
def test_wrong_use(capsys, monkeypatch, words, what):
    monkeypatch.setattr(Assembler, "__init__", lambda self: None)
    assert main(["kernels", *words]) == 2
    assert what in capsys.readouterr().err


def test_one_target(capsys, monkeypatch, tmp_path):
    if find_ptxas() is None:
        pytest.skip("no ptxas")
    launches = typical_launches(Target.named("sm_90"))
    few = [each for each in launches if each.kernel.name == "gather_rows"]
    monkeypatch.setattr(kernel_pack, "typical_launches", lambda target: few)
    assert main(["kernels", "pack", "--target", "sm_90", "--out", str(tmp_path)]) == 0
    assert "sm_90" in capsys.readouterr().out
    pack = Pack((tmp_path / "sm_90.pack").read_bytes())
    assert len(pack) == 1
    assert pack.find(Wanted.of(few[0].kernel, few[0].static)) is not None
