"""FWSEC, the program in the VBIOS that sets apart the memory in which firmware is protected.

On Ampere and Ada it runs on the GSP's falcon before anything else may. It is told by a command in
its own data where to put FRTS; afterwards WPR2 is up, until the card is reset.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp_frts_tu102.c`.
"""

from __future__ import annotations

from exosuit.driver.nvidia.bare_metal.falcon import FalconCore, SignedCode
from exosuit.driver.nvidia.bare_metal.registers import Registers
from exosuit.errors import BootFailed
from exosuit.link.function import DmaMemory
from exosuit.silicon.nvidia.boot import FWSEC_STATUS, is_refused
from exosuit.silicon.nvidia.vbios import (
    DmemMapper,
    Fwsec,
    InitCommand,
    choose_signature,
    find_mapper,
    frts_command,
)


def prepare_frts(fwsec: Fwsec, fuses: int, frts_at: int) -> bytes:
    """FWSEC's image, told to put FRTS at an offset in VRAM, with the signature for these fuses.

    Raises CorruptFile where the VBIOS has none for them.
    """
    code = fwsec.descriptor.imem_load_size
    image = bytearray(fwsec.image)
    mapper = DmemMapper(image, code + find_mapper(fwsec))
    mapper.init_cmd = InitCommand.FRTS
    command = bytes(frts_command(frts_at))
    at = code + mapper.command_in_offset
    image[at : at + len(command)] = command
    signature = choose_signature(fwsec, fuses)
    at = code + fwsec.descriptor.pkc_data_offset
    image[at : at + len(signature)] = signature
    return bytes(image)


def run_frts(
    registers: Registers, gsp: FalconCore, fwsec: Fwsec, memory: DmaMemory, frts_at: int
) -> None:
    """Run the image that `prepare_frts` made, which lies in `memory`.

    Raises BootFailed with FWSEC's own error, or where WPR2 is not where it should be.
    """
    descriptor = fwsec.descriptor
    gsp.reset()
    gsp.run(
        SignedCode(
            title="FWSEC",
            memory=memory,
            code_offset=0,
            code_bytes=descriptor.imem_load_size,
            imem_at=descriptor.imem_phys_base,
            imem_virtual=descriptor.imem_virt_base,
            data_offset=descriptor.imem_load_size,
            data_bytes=descriptor.dmem_load_size,
            dmem_at=descriptor.dmem_phys_base,
            signature_at=descriptor.pkc_data_offset,
            engine_mask=descriptor.engine_id_mask,
            ucode_id=descriptor.ucode_id,
        )
    )
    status = registers.bus.VBIOS_SCRATCH[FWSEC_STATUS].read()
    high, low = registers.bus.WPR2_ADDR_HI.read(), registers.bus.WPR2_ADDR_LO.read()
    if is_refused(status) or status.frts_error or not high.address or low.address != frts_at >> 12:
        registers.check_alive()
        raise BootFailed(
            f"the card's FWSEC did not set memory apart (error {status.frts_error:#x}, WPR2 from"
            f" {low.address << 12:#x} instead of {frts_at:#x})",
            cause="its VBIOS refuses what it is asked for, or the card was only half reset",
            next="switch the enclosure off and on, then  exosuit doctor --report FILE",
            status=int(status),
            wpr2_low=int(low),
            wpr2_high=int(high),
        )
