"""The executor's AArch64 code with real threads.

An emulator on x86 keeps x86's order of memory, so this shows that the code is right but not that
its barriers suffice on a machine that reorders more.
"""

from __future__ import annotations

import platform
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from tests.emulated.machine import PROCESSORS, build, emulate, require_tools

from exosuit.driver.cpu import executor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`executor.c`, linked with the executor as an AArch64 host would compile it."""
    require_tools()
    folder = tmp_path_factory.mktemp("executor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "aarch64")
        text = executor._executor_ir()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    machine = target.create_target_machine(opt=2, reloc="pic")
    code = folder / "executor.o"
    code.write_bytes(machine.emit_object(llvm.parse_assembly(text)))
    source = Path(__file__).parent / "executor.c"
    return build(source, folder / "executor", str(code), "-pthread")


@pytest.mark.parametrize("target", PROCESSORS)
def test_threads_share_phases_and_none_overtakes_a_fence(program: Path, target: str) -> None:
    emulate(target, program)
