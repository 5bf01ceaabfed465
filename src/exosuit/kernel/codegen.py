"""LLVM: from a kernel's IR text to code, in this process.

The pass list for CPUs is short on purpose. A kernel's IR is already in the order its author wants;
LLVM's full pipeline costs ten times the time and lengthens live ranges in register tiles (cpu.md,
"JIT time"). The GPU back ends rely on the full pipeline: it infers that no implicit argument is
used, and finds the address spaces of private memory.

A back end that cannot select an instruction aborts the process, which is why GPU code is made in a
child (`worker`); what the CPU lowerings emit is covered by tests for every level.
"""

from __future__ import annotations

from functools import cache

import llvmlite.binding as llvm

from exosuit.errors import CompileFailed
from exosuit.kernel.target import Target


def generate(ir: str, target: Target, assembly: bool = False) -> bytes:
    """Object code for a CPU or an AMD chip, PTX text for NVIDIA; or assembly for people."""
    machine = _target_machine(target)
    try:
        module = llvm.parse_assembly(ir)
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise CompileFailed(
            f"LLVM refuses the IR of a kernel for {target.name}",
            cause=str(error).strip().splitlines()[0],
            next="report it: this is a mistake in exosuit.kernel",
            ir=ir,
        ) from error
    _optimise(module, machine, target)
    if assembly or target.family == "nvptx":
        return machine.emit_assembly(module).encode()
    return machine.emit_object(module)


def _optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine, target: Target) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=3 if target.is_gpu else 2)
    builder = llvm.create_pass_builder(machine, options)
    if target.is_gpu:
        passes = builder.getModulePassManager()
    else:
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
    passes.run(module, builder)


@cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@cache
def _target_machine(target: Target) -> llvm.TargetMachine:
    _initialise()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.processor, features=target.features, opt=3, reloc="pic", codemodel="default"
    )
