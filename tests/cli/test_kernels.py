"""`exosuit kernels`: the listing, compiling for targets near and far, and wrong use."""

from __future__ import annotations

import json

import pytest

from exosuit.cli.main import main
from exosuit.settings import Settings


@pytest.fixture
def exosuit(tmp_path, capsys):
    """Runs a command line; returns status, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["kernels", *words], Settings(home=str(tmp_path)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_listing(exosuit):
    status, out, err = exosuit("--target", "gfx1201")
    assert status == 0
    assert "rms_norm" in out
    assert "ops.norm" in out
    assert "wmma_gfx12" in err


def test_listing_as_json(exosuit):
    status, out, _ = exosuit("--target", "sm_90", "--json")
    assert status == 0
    listing = json.loads(out)
    assert listing["target"] == "sm_90"
    assert "async_copy" in listing["capabilities"]
    found = {row["name"]: row for row in listing["kernels"]}
    assert found["scale"]["verdict"] == "accepted"
    assert found["scale"]["group_size"] == 256
    assert found["scale"]["parameters"][0] == {"name": "x", "dtype": "f32", "access": "inout"}
    assert found["rms_norm"]["static"] == ["width", "eps"]


@pytest.mark.parametrize(
    ("target", "word"), [("gfx1100", "v_rsq_f32"), ("sm_80", "rsqrt.approx"), ("host", "sqrtss")]
)
def test_assembly(exosuit, target, word):
    status, out, _ = exosuit(
        "rms_norm", "--set", "width=64", "--set", "eps=1e-5", "--target", target, "--asm"
    )
    assert status == 0
    assert word in out


def test_objects_are_written(exosuit, tmp_path):
    for target, ending in (("gfx1100", "o"), ("sm_80", "ptx"), ("aarch64-neon", "o")):
        status, out, _ = exosuit("scale", "--target", target, "--out", str(tmp_path / "code"))
        assert status == 0
        file = tmp_path / "code" / f"scale.{target}.{ending}"
        assert str(file) in out
        assert file.read_bytes().startswith(b"\x7fELF" if ending == "o" else b"//")
    status, out, _ = exosuit("scale", "--asm", "--out", str(tmp_path), "--json")
    assert status == 0
    assert json.loads(out)["file"].endswith(".s")


def test_static_values_may_be_objects_of_the_kernels_module(exosuit):
    shape = "heads=Heads(CacheFormat('f16', 2, 64), 4, 64, 'halves', 0.125)"
    status, out, err = exosuit("rope_and_cache", "--set", shape, "--set", "stride=512")
    assert (status, err) == (0, "")
    assert "rope_and_cache for x86-64" in out or "rope_and_cache for aarch64" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rms_nrm"], "did you mean rms_norm?"),
        (["rms_norm"], "needs width, eps"),
        (["scale", "--set", "width=3"], "has no width"),
        (["scale", "--set", "width"], "NAME=VALUE"),
        (["softcap", "--set", "cap=1 +"], "is no static value"),
        (["softcap", "--set", "cap=__import__('os').system('true')"], "is no static value"),
        (["softcap", "--set", "cap=open('/etc/passwd')"], "open is no class"),
        (["--asm"], "are about one kernel"),
        (["--target", "gfx90a"], "there is no target 'gfx90a'"),
    ],
)
def test_wrong_use(exosuit, words, told):
    status, out, err = exosuit(*words)
    assert (status, out) == (2, "")
    assert told in err
    assert [line[:6] for line in err.splitlines()] == ["error:", "cause:", "next: "]


def test_a_folder_that_cannot_be_written(exosuit, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = exosuit("scale", "--out", str(tmp_path / "file" / "code"))
    assert status == 1
    assert "cannot be written" in err


def test_the_report_counts_what_the_object_holds():
    """The counts of one product against what its source says: a load for each 16 bytes, ..."""
    from exosuit.cli.kernel_report import page, report
    from exosuit.kernel import Target
    from exosuit.ops.gpu.typical import typical_launches

    target = Target.named("gfx1100")
    launches = {launch.label: launch for launch in typical_launches(target)}
    found = report(launches["matvec Q4_K"], target)
    assert found.loads[128] == 9  # 144 bytes of a block
    assert found.dots == 64  # 256 weights by fours
    assert found.spilled_bytes == 0
    assert found.scalar_loads[512] == 4  # 256 bytes of activations
    assert found.loop is not None
    assert found.per_weight == found.loop / 256 < 1.5
    assert found.limit == "memory"
    assert found.share is not None
    assert 0.5 < found.share < 1
    assert "| matvec Q4_K |" in page(target, [found])


def test_a_summary_is_made_for_gfx11_only(exosuit):
    status, _, err = exosuit("--target", "sm_80", "--summary")
    assert status == 2
    assert "next:  exosuit kernels --target gfx1100 --summary" in err
