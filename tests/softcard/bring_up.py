"""The shortest way to a running AMD software card: what tests of its blocks need, by hand.

Not a driver: fixed places, no waiting, no recovery. It writes through `silicon`, in the order of
amd.md section 5, and keeps what it made open to tests that want to break it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from exosuit.datasheet import Packet, RegisterBus
from exosuit.link.function import Bar, PciFunction
from exosuit.silicon import pci
from exosuit.silicon.amd import hub, mqd, nbio, paging, psp
from exosuit.silicon.amd.chips import Blocks, find_blocks, find_chip
from exosuit.silicon.amd.discovery import (
    BYTES_BELOW_TOP,
    SIZE_BYTES,
    HardwareId,
    read_discovery,
)
from exosuit.silicon.amd.firmware import BOOTLOADER_ORDER, PieceType, PspPieceType
from exosuit.softcard.amd.card import AmdCard
from exosuit.softcard.amd.isa.shaders import Cost, Dispatch, ShaderFault
from exosuit.softcard.card import Options
from exosuit.softcard.direct import DirectLink
from exosuit.units import MiB

VA = 0x2000_0000_0000
STAGING, PSP_RING, COMMAND, FENCE, TMR = 1 * MiB, 0x40000, 0x50000, 0x51000, 2 * MiB
ROOT, TABLES = 0x60000, 0x61000
IH_RING, DUMMY, MQD = 0x80000, 0xC0000, 0xC1000
FREE = 32 * MiB
"""Local memory from here on is for tests."""
COMPUTE_SLOT, SDMA_SLOT = 3, 0x100
RING_BYTES = 0x10000

PIECES = {
    13: [
        PieceType.SDMA_TH1, PieceType.SDMA_TH0, PieceType.RS64_MEC, PieceType.RS64_MEC_P0_STACK,
        PieceType.IMU_I, PieceType.IMU_D, PieceType.RLC_IRAM, PieceType.RLC_DRAM_BOOT,
        PieceType.RLC_P, PieceType.RLC_V, PieceType.RLC_G,
    ],
    14: [
        PieceType.SDMA_TH0, PieceType.RS64_PFP, PieceType.RS64_PFP_P0_STACK, PieceType.RS64_ME,
        PieceType.RS64_ME_P0_STACK, PieceType.RS64_MEC, PieceType.RS64_MEC_P0_STACK,
        PieceType.IMU_I, PieceType.IMU_D, PieceType.RLC_IRAM, PieceType.RLC_DRAM_BOOT,
        PieceType.RLC_G,
    ],
}  # fmt: skip


class Window:
    """Registers of BAR 5, and those beyond it through the RSMU pair."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def read32(self, offset: int) -> int:
        if offset < nbio.REGISTER_BYTES:
            return self._bar.read32(offset)
        self._bar.write32(0x50, offset)
        return self._bar.read32(0x54)

    def write32(self, offset: int, value: int) -> None:
        if offset < nbio.REGISTER_BYTES:
            self._bar.write32(offset, value)
        else:
            self._bar.write32(0x50, offset)
            self._bar.write32(0x54, value)


@dataclass
class Recorded:
    """Stands in for the translator of programs: keeps what it is asked to run."""

    runs: list[Dispatch] = field(default_factory=list)
    fault: ShaderFault | None = None
    cost: Cost = field(default_factory=lambda: Cost(1_000_000, 960_000, 10))

    def run(self, dispatch: Dispatch) -> Cost:
        if self.fault:
            raise self.fault
        self.runs.append(dispatch)
        return self.cost


class Hands:
    """One card and everything that has been set up on it.

    card, programs  of those that `take` makes; a test may look at them from inside
    """

    card: AmdCard
    programs: Recorded

    @classmethod
    def take(cls, target: str = "gfx1100", **options: Any) -> Self:
        """A strict card of 256 MiB in this process, powered on, that only records programs."""
        chosen = {"vram": 256 * MiB, "strict": True, **options}
        card = AmdCard(find_chip(target), Options(**chosen))
        hands = cls(DirectLink(card))
        hands.card = card
        hands.programs = card.programs = Recorded()
        return hands

    def __init__(self, link: PciFunction) -> None:
        self.link = link
        link.write_config(4, pci.Command(memory_space=True, bus_master=True), 2)
        self.memory = link.bar(nbio.MEMORY_BAR)
        self.doorbells = link.bar(nbio.DOORBELL_BAR)
        self.bus: RegisterBus = Window(link.bar(nbio.REGISTER_BAR))
        self.vram = self.bus.read32(4 * 0xDE3) * MiB
        top = self.vram - BYTES_BELOW_TOP
        self.found = read_discovery(
            self.memory.read(top, SIZE_BYTES) if top < self.memory.size else self._window(top)
        )
        self.blocks: Blocks = find_blocks(self.found)
        gc = self.found.ip(HardwareId.GC).byte_bases
        self.nbio = self.blocks.nbio(self.bus, self.found.ip(HardwareId.NBIF).byte_bases)
        self.psp = self.blocks.psp(self.bus, self.found.ip(HardwareId.MP0).byte_bases)
        self.smu = self.blocks.smu(self.bus, self.found.ip(HardwareId.MP1).byte_bases)
        self.ih = self.blocks.ih(self.bus, self.found.ip(HardwareId.OSSSYS).byte_bases)
        self.gc_hub = self.blocks.gc_hub(self.bus, gc)
        self.mm_hub = self.blocks.mm_hub(self.bus, self.found.ip(HardwareId.MMHUB).byte_bases)
        self.gfx = self.blocks.gfx(self.bus, gc)
        self.hqd = self.blocks.hqd(self.bus, gc)
        self.sdma = self.blocks.sdma(self.bus, gc)
        self.mc_base = self.mm_hub.MC_VM_FB_LOCATION_BASE.read() << 24
        self.kind = paging.entry_kind(self.blocks.generation)
        self._next_table = TABLES
        self._fences = 0
        self.compute_pointer = self.copy_pointer = 0

    @property
    def mp_major(self) -> int:
        return self.found.version(HardwareId.MP0)[0]

    def _window(self, at: int) -> bytes:
        data = b""
        for address in range(at, at + SIZE_BYTES, 4):
            self.bus.write32(6 * 4, address >> 31)
            self.bus.write32(0, address & 0x7FFF_FFFF | 1 << 31)
            data += self.bus.read32(4).to_bytes(4, "little")
        return data

    # Boot.

    def boot(self) -> None:
        """Everything, with one compute queue and one copy queue."""
        self.start_hub(self.mm_hub)
        self.start_ih()
        self.start_psp()
        self.start_gfx()
        self.start_queues()

    def start_hub(self, block: hub.Hub) -> None:
        base, top = self.mc_base, block.MC_VM_FB_LOCATION_TOP.read() << 24
        block.MC_VM_SYSTEM_APERTURE_LOW_ADDR.write(base >> 18)
        block.MC_VM_SYSTEM_APERTURE_HIGH_ADDR.write(top >> 18)
        block.VM_L2_PROTECTION_FAULT_DEFAULT_ADDR.write(DUMMY >> 12)
        block.VM_CONTEXT0_PAGE_TABLE_START_ADDR.write(VA >> 12)
        block.VM_CONTEXT0_PAGE_TABLE_END_ADDR.write(0x7_FFFF_FFFF)
        block.VM_CONTEXT0_PAGE_TABLE_BASE_ADDR.write(ROOT | 1)
        causes = ("range", "dummy_page", "pde0", "valid", "read", "write", "execute")
        flags = {f"{cause}_protection_fault_enable_interrupt": 1 for cause in causes}
        block.VM_CONTEXT0_CNTL.write(enable_context=True, page_table_depth=3, **flags)

    def start_ih(self) -> None:
        self.ih.IH_RB_BASE.write(self.mc_base + IH_RING >> 8)
        self.ih.IH_RB_CNTL.write(rb_enable=True, rb_size=14, mc_space=4)

    def start_psp(self) -> None:
        self.load_os()
        self.create_ring()
        self.command(psp.CommandId.LOAD_TOC, toc=psp.LoadToc, toc_size=0x900)
        self.load(PieceType.SMU)
        if self.mp_major == 13:
            self.command(
                psp.CommandId.SETUP_TMR,
                toc=psp.SetupTmr,
                buffer_low=self.mc_base + TMR & 0xFFFF_FFFF,
                buffer_high=self.mc_base + TMR >> 32,
                buffer_size=0x150_0000,
                flags=psp.TmrFlags(virt_phy_addr=True),
                system_low=TMR,
            )
        for piece in PIECES[self.mp_major]:
            self.load(piece)
        assert self.command(psp.CommandId.AUTOLOAD_RLC) == 0

    def load_os(self, skip: Sequence[PspPieceType] = ()) -> None:
        for command, kind in BOOTLOADER_ORDER:
            if kind in skip or kind is PspPieceType.IPKEYMGR_DRV:
                continue
            assert psp.BootloaderStatus(self.psp.C2PMSG_35.read()).ready
            self.psp.C2PMSG_36.write(self.mc_base + STAGING >> 20)
            self.psp.C2PMSG_35.write(command)

    def create_ring(self, kind: psp.ControlCommand = psp.ControlCommand.CREATE_RING_KM) -> None:
        self.psp.C2PMSG_69.write(self.mc_base + PSP_RING & 0xFFFF_FFFF)
        self.psp.C2PMSG_70.write(self.mc_base + PSP_RING >> 32)
        self.psp.C2PMSG_71.write(0x1000)
        self.psp.C2PMSG_64.write(kind)

    def load(self, piece: int, size: int = 0x1000) -> int:
        return self.command(
            psp.CommandId.LOAD_IP_FW,
            toc=psp.LoadIpFirmware,
            firmware_size=size,
            firmware_type=piece,
        )

    def command(self, number: int, toc: type[psp.Struct] | None = None, **arguments: int) -> int:
        """One command through the ring; its status, or -1 where the PSP says nothing."""
        filled = toc.make(**arguments) if toc else None
        if filled is not None and toc in (psp.LoadToc, psp.LoadIpFirmware):
            low, high = list(filled.SLOTS)[:2]
            at = self.mc_base + STAGING
            filled.assign(**{low: at & 0xFFFF_FFFF, high: at >> 32})
        command = psp.Command.make(
            command_id=number, arguments=bytes(filled) if filled else b"", status=0xDEAD
        )
        self.memory.write(COMMAND, bytes(command))
        self._fences += 1
        frame = psp.RingFrame.make(
            command_low=self.mc_base + COMMAND & 0xFFFF_FFFF,
            command_high=self.mc_base + COMMAND >> 32,
            fence_low=self.mc_base + FENCE & 0xFFFF_FFFF,
            fence_high=self.mc_base + FENCE >> 32,
            fence_value=self._fences,
        )
        pointer = self.psp.C2PMSG_67.read()
        self.memory.write(PSP_RING + 4 * pointer, bytes(frame))
        self.psp.C2PMSG_67.write((pointer + psp.RING_FRAME_DWORDS) % 0x400)
        if self.memory.read32(FENCE) != self._fences:
            return -1
        self.answer = psp.Command(self.memory.read(COMMAND, psp.Command.SIZE))
        return self.answer.status

    def start_gfx(self) -> None:
        assert self.gfx.RLC_RLCS_BOOTLOAD_STATUS.read() >> 31
        self.start_hub(self.gc_hub)
        self.gfx.GRBM_GFX_CNTL.write(meid=1)
        self.gfx.CP_MEC_RS64_PRGRM_CNTR_START.write(0xC00)
        self.gfx.CP_MEC_RS64_PRGRM_CNTR_START_HI.write(0x1C000)
        self.gfx.GRBM_GFX_CNTL.write(0)
        self.gfx.RLC_CNTL.write(rlc_enable_f32=True)
        self.gfx.SH_MEM_CONFIG.write(initial_inst_prefetch=3, alignment_mode=3)
        self.gfx.SH_MEM_BASES.write(private_base=2, shared_base=1)
        self.nbio.RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN.write(bif_doorbell_aper_en=True)
        self.nbio.S2A_DOORBELL_ENTRY_CTRL[3].write(enable=True, awid=6, awaddr_31_28_value=3)
        self.nbio.S2A_DOORBELL_ENTRY_CTRL[2].write(
            enable=True, awid=0xE, awaddr_31_28_value=3, range_offset=0x200, range_size=4
        )
        self.gfx.CP_MEC_DOORBELL_RANGE_UPPER.write(doorbell=62)
        self.gfx.CP_MEC_RS64_CNTL.write(mec_pipe0_active=True)

    # Memory.

    def map(
        self, virtual: int, physical: int, size: int, *, system: bool = False, fragment: int = 0,
        flush: bool = True, **changes: int,
    ) -> None:  # fmt: skip
        """Map 4 KiB pages; `changes` are fields of their entries to set otherwise."""
        for offset in range(0, size, paging.PAGE):
            table = self.table(virtual + offset)
            entry = paging.leaf(
                self.kind, physical + offset, 3, system=system, fragment=fragment
            ).replace(**changes)
            at = table + 8 * paging.index(virtual + offset - VA, 3)
            self.memory.write64(at, entry)
        if flush:
            self.flush()

    def table(self, virtual: int, level: int = 3) -> int:
        """The table of `level` for an address, made if it is not there."""
        at = ROOT
        for upper in range(level):
            place = at + 8 * paging.index(virtual - VA, upper)
            entry = self.kind(int.from_bytes(self.memory.read(place, 8), "little"))
            if not entry.valid:
                entry = paging.pointer(self.kind, self._next_table)
                self._next_table += paging.TABLE_BYTES
                self.memory.write64(place, entry)
            at = entry.frame * paging.PAGE
        return at

    def flush_writes(self) -> None:
        """What was written through BAR 0 goes on to memory."""
        self.bus.write32(nbio.HDP_FLUSH_OFFSET, 0)

    def flush(self) -> None:
        self.flush_writes()
        for block in (self.gc_hub, self.mm_hub):
            block.VM_INVALIDATE_ENG_REQ[17].write(per_vmid_invalidate_req=1)
            assert block.VM_INVALIDATE_ENG_ACK[17].read().per_vmid_invalidate_ack & 1

    # Queues.

    def start_queues(self) -> None:
        """Rings, pointers and everything else at fixed virtual addresses in local memory."""
        self.map(VA, FREE, 4 * MiB)
        self.copy_ring, self.compute_ring = FREE, FREE + RING_BYTES
        self.copy_read, self.compute_read = FREE + 0x20000, FREE + 0x20080
        self.end_of_pipe = VA + 0x30000
        self.start_compute()
        self.start_copies()

    def start_compute(self, **changes: int) -> None:
        """Write the descriptor, then the registers from it; `changes` are to the latter alone."""
        self.compute_pointer = 0
        described = mqd.Mqd.make(header=mqd.HEADER, compute_static_thread_mgmt_se0=0xFFFF_FFFF)
        fields = described.registers
        fields.CP_MQD_BASE_ADDR.write(self.mc_base + MQD)
        fields.CP_HQD_PQ_BASE.write(address=VA + RING_BYTES >> 8)
        fields.CP_HQD_PQ_RPTR_REPORT_ADDR.write(VA + 0x20080)
        fields.CP_HQD_PQ_WPTR_POLL_ADDR.write(VA + 0x20038)
        fields.CP_HQD_PQ_DOORBELL_CONTROL.write(doorbell_offset=2 * COMPUTE_SLOT, doorbell_en=True)
        size = (RING_BYTES // 4).bit_length() - 2
        fields.CP_HQD_PQ_CONTROL.write(queue_size=size, rptr_block_size=5)
        fields.CP_HQD_EOP_BASE_ADDR.write(address=self.end_of_pipe >> 8)
        fields.CP_HQD_EOP_CONTROL.write(eop_size=9)
        self.memory.write(MQD, bytes(described))
        self.gfx.GRBM_GFX_CNTL.write(meid=1)
        base = self.found.ip(HardwareId.GC).byte_bases[0]
        for offset, value in described.register_words():
            self.bus.write32(base + offset, value)
        for name, value in changes.items():
            getattr(self.hqd, name).write(value)
        self.hqd.CP_HQD_ACTIVE.write(active=True)
        self.gfx.GRBM_GFX_CNTL.write(0)

    def start_copies(self) -> None:
        self.copy_pointer = 0
        described = self.sdma
        if hasattr(described, "SDMA0_F32_CNTL"):
            described.SDMA0_F32_CNTL.write(0)
        else:
            described.SDMA0_MCU_CNTL.write(0)
        described.SDMA0_QUEUE0_RB_RPTR.write(0)
        described.SDMA0_QUEUE0_RB_WPTR.write(0)
        described.SDMA0_QUEUE0_RB_BASE.write(address=VA >> 8)
        described.SDMA0_QUEUE0_RB_RPTR_ADDR_LO.write(VA + 0x20000 & 0xFFFF_FFFF)
        described.SDMA0_QUEUE0_RB_RPTR_ADDR_HI.write(VA + 0x20000 >> 32)
        described.SDMA0_QUEUE0_DOORBELL_OFFSET.write(offset=2 * SDMA_SLOT)
        described.SDMA0_QUEUE0_DOORBELL.write(enable=True)
        described.SDMA0_QUEUE0_RB_CNTL.write(
            rb_enable=True,
            rb_size=(RING_BYTES // 4).bit_length() - 1,
            rptr_writeback_enable=True,
        )

    def compute(self, *packets: Packet | bytes) -> None:
        """Submit to the compute queue."""
        data = b"".join(map(bytes, packets))
        at = 4 * self.compute_pointer % RING_BYTES
        self._put(self.compute_ring, at, data)
        self.compute_pointer += len(data) // 4
        self.flush_writes()
        self.doorbells.write64(8 * COMPUTE_SLOT, self.compute_pointer)

    def copy(self, *packets: Packet | bytes) -> None:
        """Submit to the copy queue."""
        data = b"".join(map(bytes, packets))
        self._put(self.copy_ring, self.copy_pointer % RING_BYTES, data)
        self.copy_pointer += len(data)
        self.flush_writes()
        self.doorbells.write64(8 * SDMA_SLOT, self.copy_pointer)

    def _put(self, ring: int, at: int, data: bytes) -> None:
        first = min(len(data), RING_BYTES - at)
        self.memory.write(ring + at, data[:first])
        if first < len(data):
            self.memory.write(ring, data[first:])
