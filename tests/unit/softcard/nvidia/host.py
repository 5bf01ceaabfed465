"""The shortest way to a running NVIDIA software card, by hand: what tests of its rooms need.

Not a driver: fixed places, no waiting, no recovery. It writes through `silicon`, in the order of
the reference's section 7, and keeps what it made open to tests that want to break it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from exosuit.datasheet import Struct
from exosuit.link.mapped import MappedMemory
from exosuit.silicon.nvidia import boot as boot_registers
from exosuit.silicon.nvidia import falcon as falcons
from exosuit.silicon.nvidia import firmware, fsp, gsp, rm, rpc, vbios
from exosuit.silicon.nvidia.channel import USERMODE_OFFSET, Usermode
from exosuit.silicon.nvidia.chips import GSP_IMAGE, Start
from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.gsp_controls import (
    BufferId,
    CopyReservedPdes,
    GspControl,
    PromoteContext,
)
from exosuit.silicon.nvidia.paging import EVERYTHING, PAGE, MmuInvalidate
from exosuit.silicon.nvidia.rm_controls import ScheduleOf570, WorkSubmitToken
from exosuit.silicon.pci import Command
from exosuit.softcard.card import Options
from exosuit.softcard.chips import make_card
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.nvidia.card import NvidiaCard
from exosuit.softcard.nvidia.firmware import FMC_BYTES, GSP_BYTES, SyntheticFirmware
from exosuit.softcard.nvidia.objects import CONTEXT_BYTES, GOLDEN_BUFFERS, USER_BUFFERS
from exosuit.units import MiB

VRAM = 512 * MiB
FRTS = VRAM - 2 * MiB
TABLES, LENT, FREE = 0x0, 0x20_0000, 0x400_0000
"""Local memory: page tables, what channels are lent, what tests may use."""
SERVERS_VA, RING_VA, CONTEXT_VA, FREE_VA = 0x4000_0000, 0x8000_0000, 0x9000_0000, 0xC000_0000
INTERNAL, USER = 0xC1E0_0004, 0xC100_0000
QUEUE_PAGES = 129


@dataclass
class Boot:
    """What the signed code is given; tests change it before `start`."""

    meta: gsp.WprMeta
    cot: fsp.ChainOfTrust | None = None
    regions: list[gsp.LibosRegion] = field(default_factory=list[gsp.LibosRegion])
    booter_mailbox: int = 0
    fwsec: bytes = b""


class Host:
    """One client of one card."""

    def __init__(self, name: str = "gb202", *, strict: bool = False, bar: int = 0) -> None:
        made = make_card(name, Options(vram=VRAM, strict=strict, bar=bar))
        assert isinstance(made, NvidiaCard)
        self.card = made
        self.chip = made.product.chip
        self.link = DirectLink(made)
        self.bar0, self.bar1 = self.link.bar(0), self.link.bar(1)
        self.bus = boot_registers.BUS_KINDS[self.chip.architecture](self.bar0)
        self.gsp = falcons.Falcon(self.bar0, falcons.GSP)
        self.sec2 = falcons.Falcon(self.bar0, falcons.SEC2)
        self.mmu = MmuInvalidate(self.bar0, MmuInvalidate.BASE)
        self.format = made.format
        self.files = SyntheticFirmware()
        self.tables: dict[tuple[int, int, int], int] = {}
        self._next_table = TABLES
        self._next_lent = LENT
        self._sequence = self._written = self._read = 0
        self._handles = iter(range(0xCF00_0000, 0xCF01_0000))
        self.events: list[tuple[int, bytes]] = []

    # Memory.

    def dma(self, data: bytes) -> tuple[MappedMemory, int]:
        """Contiguous host memory with these bytes, and its bus address."""
        memory = self.link.allocate_dma(max(len(data), PAGE), contiguous=True)
        memory.write(0, data)
        return memory, int(memory.segments[0].address)

    def let_dma(self, on: bool = True) -> None:
        command = Command(self.link.read_config(4, 2)).replace(bus_master=on)
        self.link.write_config(4, command, 2)

    def lend(self, size: int) -> int:
        """Local memory for the firmware, by its offset."""
        at = self._next_lent
        self._next_lent += -(-size // PAGE) * PAGE
        return at

    def map(
        self, root: int, virtual: int, physical: int, size: int = PAGE, *, system: bool = False
    ) -> None:
        """Write entries of 4 KiB pages; no invalidation."""
        for offset in range(0, size, PAGE):
            at = self.entry(root, virtual + offset)
            entry = self.format.page(physical + offset, system=system)
            self.bar1.write64(at, int(entry))

    def unmap(self, root: int, virtual: int) -> None:
        self.bar1.write64(self.entry(root, virtual), 0)

    def invalidate(self) -> None:
        self.mmu.INVALIDATE.write(EVERYTHING)

    def new_root(self) -> int:
        return self._new_table()

    def table(self, root: int, virtual: int, level: int) -> int:
        """Where the table of a level for an address lies, made if need be."""
        at = root
        for above in range(level):
            key = (root, above, virtual >> self.format.shifts[above])
            if key not in self.tables:
                self.tables[key] = self._new_table()
                entry = self.format.pointer(self.tables[key], above).encode()
                place = self.format.index(virtual, above) * self.format.entry_bytes(above)
                self.bar1.write(at + place, entry)
            at = self.tables[key]
        return at

    def entry(self, root: int, virtual: int) -> int:
        last = self.format.last
        return self.table(root, virtual, last) + 8 * self.format.index(virtual, last)

    def _new_table(self) -> int:
        at = self._next_table
        self._next_table += PAGE
        self.bar1.write(at, bytes(PAGE))
        return at

    # The boot.

    def prepare(self) -> Boot:
        """Put everything in place that signed code looks at."""
        while self.bus.GFW_PROGRESS.read().progress != boot_registers.GFW_DONE:
            pass
        self.let_dma()
        image = b""
        for section, content in _sections(self.files.read(GSP_IMAGE)).items():
            if section == firmware.IMAGE_SECTION:
                image = content
        loader = self.files.read(self.chip.firmware("bootloader"))
        head = firmware.BinHeader(loader)
        _, loader_at = self.dma(loader[head.data_offset : head.data_offset + head.data_size])
        _, signature_at = self.dma(b"s" * gsp.SIGNATURE_BYTES)
        meta = gsp.WprMeta.make(
            magic=gsp.WPR_MAGIC, revision=gsp.WPR_REVISION,
            radix3_address=self._radix3(image), radix3_size=len(image),
            bootloader_address=loader_at, bootloader_size=head.data_size,
            signature_address=signature_at, signature_size=gsp.SIGNATURE_BYTES,
            vga_workspace_size=0x2_0000, heap_size=64 * MiB, non_wpr_heap_size=MiB,
            frts_size=MiB, pmu_reserved_size=self.chip.pmu_bytes,
        )  # fmt: skip
        if self.chip.start is Start.BOOTER:
            _lay_out(meta)
        made = Boot(meta, regions=self._libos())
        if self.chip.start is Start.FSP:
            _, fmc_at = self.dma(bytes(range(256)) * (FMC_BYTES // 256))
            made.cot = fsp.ChainOfTrust.make(
                version=fsp.COT_VERSION, size=fsp.ChainOfTrust.SIZE, fmc_address=fmc_at,
                frts_from_end=self.chip.frts_from_end, frts_size=MiB, hash=b"h" * 48,
                public_key=b"k" * 97, signature=b"s" * 96,
            )  # fmt: skip
        else:
            made.fwsec = self._fwsec()
        return made

    def start(self, made: Boot) -> int:
        """Run the signed code; 0, or the error that it leaves."""
        page = b"".join(map(bytes, made.regions))
        self.libos_memory, self.libos = self.dma(page.ljust(PAGE, b"\0"))
        self._announce()
        self.meta_memory, meta_at = self.dma(bytes(made.meta))
        if made.cot is not None:
            parameters = gsp.FmcBootParameters.make()
            parameters.boot.assign(
                target=gsp.FmcTarget.COHERENT, meta_size=gsp.WprMeta.SIZE, meta_address=meta_at,
                is_rm_boot=1,
            )  # fmt: skip
            parameters.rm.assign(target=gsp.FmcTarget.COHERENT, arguments_address=self.libos)
            _, made.cot.boot_arguments = self.dma(bytes(parameters))
            error = self.ask_fsp(fsp.message(fsp.NvdmType.COT, bytes(made.cot)))
            while not error and self.is_locked():
                pass
            return error
        self.run_fwsec(made.fwsec)
        self.select_core()
        return self.run_booter(made.booter_mailbox or meta_at)

    def boot(self) -> None:
        """All the way to INIT_DONE, and BAR 1 open again."""
        assert self.start(self.prepare()) == 0
        self.pump()
        assert self.events[-1][0] == rpc.Event.GSP_INIT_DONE
        self.bus.BAR1_BLOCK.write(0)
        if self.chip.start is Start.FSP:
            boot_registers.BusBlackwell(self.bar0).BAR1_BLOCK_LOW.write(0)

    def is_locked(self) -> bool:
        found = self.gsp.HWCFG2.read()
        return falcons.is_locked_out(found) or bool(found.riscv_br_priv_lockdown)

    def ask_fsp(self, message: bytes) -> int:
        """Send, and give the error of the answer."""
        port = fsp.Fsp(self.bar0)
        port.EMEMC[0].write(increment_on_write=True)
        for at in range(0, len(message), 4):
            port.EMEMD[0].write(int.from_bytes(message[at : at + 4], "little"))
        port.QUEUE_TAIL[0].write(len(message) - 4)
        port.QUEUE_HEAD[0].write(0)
        head, tail = int(port.MSGQ_HEAD[0].read()), int(port.MSGQ_TAIL[0].read())
        assert head != tail, "no answer"
        port.EMEMC[0].write(increment_on_read=True)
        words = [int(port.EMEMD[0].read()) for _ in range((tail - head) // 4 + 1)]
        port.MSGQ_TAIL[0].write(head)
        answer = b"".join(word.to_bytes(4, "little") for word in words)
        return fsp.Response(answer, 8).error

    def reset(self, core: falcons.Falcon) -> None:
        core.ENGINE.write(reset=True)
        core.ENGINE.write(reset=False)
        while core.HWCFG2.read().mem_scrubbing:
            pass

    def choose_falcon(self, core: falcons.Falcon) -> None:
        core.RISCV_BCR_CTRL.write(core_select=False)
        while not core.RISCV_BCR_CTRL.read().valid:
            pass
        core.RM.write(int(self.bus.BOOT_0.read()))

    def load(
        self, core: falcons.Falcon, source: int, code: tuple[int, int], data: tuple[int, int]
    ) -> None:
        """Bring code and data in, from local memory; each an offset in the image and a size."""
        core.FBIF_CTL.write(allow_phys_no_ctx=True)
        core.DMACTL.write(0)
        core.FBIF_TRANSCFG[0].write(target=falcons.TransferTarget.VRAM, physical=True)
        for (offset, size), is_code in ((code, True), (data, False)):
            at = source + offset
            core.DMATRFBASE.write(at >> 8)
            core.DMATRFBASE1.write(at >> 40)
            for block in range(0, size, falcons.BLOCK_BYTES):
                core.DMATRFMOFFS.write(block)
                core.DMATRFFBOFFS.write(block)
                core.DMATRFCMD.write(size=falcons.DmaSize.BYTES_256, imem=is_code, sec=int(is_code))

    def run_fwsec(self, image: bytes) -> None:
        found = vbios.read_fwsec(self.bar0.read(0x30_0000, 1 << 20))
        descriptor = found.descriptor
        self.bar1.write(FREE, image)
        self.reset(self.gsp)
        self.choose_falcon(self.gsp)
        code = descriptor.imem_load_size
        self.load(self.gsp, FREE, (0, code), (code, descriptor.dmem_load_size))
        self.gsp.BROM_PARAADDR.write(descriptor.pkc_data_offset)
        self.gsp.BROM_ENGIDMASK.write(descriptor.engine_id_mask)
        self.gsp.BROM_CURR_UCODE_ID.write(val=descriptor.ucode_id)
        self.gsp.MOD_SEL.write(algo=falcons.Algorithm.RSA3K)
        self.gsp.BOOTVEC.write(descriptor.imem_virt_base)
        self.gsp.CPUCTL.write(startcpu=True)

    def select_core(self) -> None:
        self.reset(self.gsp)
        self.gsp.RISCV_BCR_CTRL.write(core_select=True, brfetch=True)
        self.give_arguments()

    def give_arguments(self) -> None:
        self.gsp.MAILBOX0.write(self.libos & 0xFFFF_FFFF)
        self.gsp.MAILBOX1.write(self.libos >> 32)

    def run_booter(self, mailbox: int, name: str = "booter_load") -> int:
        file = self.files.read(self.chip.firmware(name))
        head = firmware.BinHeader(file)
        signed = firmware.HsHeader(file, head.header_offset)
        load = firmware.LoadHeader(file, signed.load_header_offset)
        app = firmware.LoadApp(file, signed.load_header_offset + firmware.LoadHeader.SIZE)
        image = bytearray(file[head.data_offset : head.data_offset + head.data_size])
        where = int.from_bytes(file[signed.patch_location :][:4], "little")
        image[where : where + 384] = file[signed.signatures_offset :][:384]
        self.bar1.write(FREE, image)
        self.reset(self.sec2)
        self.choose_falcon(self.sec2)
        self.load(
            self.sec2, FREE, (app.code_offset, app.code_size),
            (load.os_data_offset, load.os_data_size),
        )  # fmt: skip
        parameters = firmware.BooterParameters
        self.sec2.BROM_PARAADDR.write(parameters.PKC_OFFSET)
        self.sec2.BROM_ENGIDMASK.write(parameters.ENGINE_MASK)
        self.sec2.BROM_CURR_UCODE_ID.write(val=parameters.UCODE_ID)
        self.sec2.MOD_SEL.write(algo=falcons.Algorithm.RSA3K)
        self.sec2.BOOTVEC.write(app.code_offset)
        self.sec2.MAILBOX0.write(mailbox & 0xFFFF_FFFF)
        self.sec2.MAILBOX1.write(mailbox >> 32)
        self.sec2.CPUCTL.write(startcpu=True)
        return int(self.sec2.MAILBOX0.read())

    def _fwsec(self) -> bytes:
        found = vbios.read_fwsec(self.bar0.read(0x30_0000, 1 << 20))
        image = bytearray(found.image)
        code = found.descriptor.imem_load_size
        mapper = vbios.DmemMapper(image, code + vbios.find_mapper(found))
        mapper.init_cmd = vbios.InitCommand.FRTS
        command = bytes(vbios.frts_command(FRTS))
        at = code + mapper.command_in_offset
        image[at : at + len(command)] = command
        at = code + found.descriptor.pkc_data_offset
        image[at : at + 384] = vbios.choose_signature(found, 1)
        return bytes(image)

    def _radix3(self, image: bytes) -> int:
        data, at = self.dma(image.ljust(-(-len(image) // PAGE) * PAGE, b"\0"))
        pages = [at + offset for offset in range(0, data.size, PAGE)]
        for _ in range(2):
            table = b"".join(page.to_bytes(8, "little") for page in pages)
            memory, at = self.dma(table.ljust(-(-len(table) // PAGE) * PAGE, b"\0"))
            pages = [at + offset for offset in range(0, memory.size, PAGE)]
        _, root = self.dma(b"".join(page.to_bytes(8, "little") for page in pages))
        return root

    def _libos(self) -> list[gsp.LibosRegion]:
        size = QUEUE_PAGES * PAGE
        self.block, at = self.dma(bytes(size))
        pages = b"".join((at + n * PAGE).to_bytes(8, "little") for n in range(QUEUE_PAGES))
        self.block.write(0, pages)
        self.command, self.status = PAGE, PAGE + gsp.QUEUE_BYTES
        header = gsp.QueueHeader.make(
            size=gsp.QUEUE_BYTES, element_size=gsp.ELEMENT_BYTES,
            element_count=gsp.QUEUE_ELEMENTS, flags=1, read_offset=gsp.READ_POINTER,
            entry_offset=PAGE,
        )  # fmt: skip
        self.block.write(self.command, bytes(header))
        arguments = gsp.GspArguments.make(dmem_stack=1)
        arguments.queues.assign(
            shared_address=at, page_count=QUEUE_PAGES, command_offset=self.command,
            status_offset=self.status,
        )  # fmt: skip
        _, arguments_at = self.dma(bytes(arguments))
        self.logs, logs_at = self.dma(bytes(gsp.LOG_BYTES * len(gsp.LOGS)))
        places = [
            (name, logs_at + n * gsp.LOG_BYTES, gsp.LOG_BYTES) for n, name in enumerate(gsp.LOGS)
        ]
        return [
            gsp.LibosRegion.make(
                id=gsp.libos_id(name), address=at, size=size, kind=gsp.RegionKind.CONTIGUOUS,
                place=gsp.RegionPlace.SYSTEM,
            )
            for name, at, size in [*places, (gsp.ARGUMENTS, arguments_at, PAGE)]
        ]  # fmt: skip

    # Messages.

    def _announce(self) -> None:
        self.send(rpc.Function.GSP_SET_SYSTEM_INFO, bytes(rpc.SystemInfo.make(is_passthrough=1)))
        self.send(rpc.Function.SET_REGISTRY, rpc.pack_registry({"RMForcePcieConfigSave": 1}))

    def send(self, function: int, payload: bytes, **wrong: int) -> None:
        """Write one request and ring; `wrong` overwrites slots of its headers afterwards."""
        record = rpc.Record.make(
            version=rpc.VERSION, signature=rpc.SIGNATURE, result=rpc.PENDING,
            private_result=rpc.PENDING, function=function, length=rpc.Record.SIZE + len(payload),
        )  # fmt: skip
        count = rpc.elements(record.length)
        message = bytearray(rpc.Element.SIZE) + bytes(record) + payload
        element = rpc.Element(message)
        element.assign(sequence=self._sequence, count=count)
        for name, value in wrong.items():
            target = element if name in rpc.Element.SLOTS else rpc.Record(message, element.SIZE)
            target.assign(**{name: value})
        if "checksum" not in wrong:
            element.checksum = rpc.checksum(message)
        message = message.ljust(count * PAGE, b"\0")
        for part in range(count):
            at = (self._written + part) % gsp.QUEUE_ELEMENTS
            place = self.command + PAGE + at * PAGE
            self.block.write(place, message[part * PAGE : (part + 1) * PAGE])
        self._written = (self._written + count) % gsp.QUEUE_ELEMENTS
        self._sequence += 1
        self.block.write32(self.command + 0x10, self._written)
        self.bus.GSP_QUEUE_HEAD[0].write(0)

    def pump(self) -> None:
        """Read the status queue into `events`; do what the firmware asks for on the way."""
        while self._read != self.block.read32(self.status + 0x10):
            at = self.status + PAGE + self._read * PAGE
            head = rpc.Header(self.block.read(at, rpc.Header.SIZE))
            message = b"".join(
                self.block.read(
                    self.status + PAGE + (self._read + n) % gsp.QUEUE_ELEMENTS * PAGE, PAGE
                )
                for n in range(head.element.count)
            )[: rpc.Element.SIZE + head.record.length]
            assert rpc.checksum(message) == 0
            self._read = (self._read + head.element.count) % gsp.QUEUE_ELEMENTS
            self.block.write32(self.command + gsp.READ_POINTER, self._read)
            self.events.append((head.record.function, message[rpc.Header.SIZE :]))
            if head.record.function == rpc.Event.GSP_RUN_CPU_SEQUENCER:
                self.run_sequence(message[rpc.Header.SIZE :])

    def run_sequence(self, payload: bytes) -> None:
        words = memoryview(payload[rpc.RunSequencer.SIZE :]).cast("I").tolist()
        while words:
            code = gsp.Sequencer(words.pop(0))
            given = [words.pop(0) for _ in range(gsp.SEQUENCER_ARGUMENTS[code])]
            match code:
                case gsp.Sequencer.REG_WRITE:
                    self.bar0.write32(*given)
                case gsp.Sequencer.REG_MODIFY:
                    at, mask, value = given
                    self.bar0.write32(at, self.bar0.read32(at) & ~mask | value)
                case gsp.Sequencer.REG_POLL:
                    assert self.bar0.read32(given[0]) & given[1] == given[2]
                case gsp.Sequencer.CORE_RESET:
                    self.reset(self.gsp)
                    self.choose_falcon(self.gsp)
                case gsp.Sequencer.CORE_START:
                    self.gsp.CPUCTL.write(startcpu=True)
                case gsp.Sequencer.CORE_WAIT_FOR_HALT:
                    assert self.gsp.CPUCTL.read().halted
                case gsp.Sequencer.CORE_RESUME:
                    self.select_core()
                    self.sec2.CPUCTL.write(startcpu=True)
                    assert self.bus.BSI_SECURE_SCRATCH_14.read().boot_stage_3_handoff
                    assert int(self.sec2.MAILBOX0.read()) == 0
                case _:
                    pass

    def call(self, function: int, payload: bytes) -> bytes:
        """The payload of the answer."""
        self.send(function, payload)
        self.pump()
        assert self.events[-1][0] == function, self.events[-1]
        return self.events[-1][1]

    def allocate(
        self, client: int, parent: int, class_id: int, params: Struct | None = None
    ) -> tuple[int, int]:
        """Handle and status of a new object."""
        handle = client if class_id == ObjectClass.ROOT else next(self._handles)
        data = bytes(params) if params is not None else b""
        asked = rpc.Alloc.make(
            client=client, parent=parent, handle=handle, class_id=class_id,
            parameters_size=len(data),
        )  # fmt: skip
        answer = rpc.Alloc(self.call(rpc.Function.GSP_RM_ALLOC, bytes(asked) + data))
        return handle, answer.status

    def control(
        self, client: int, handle: int, command: int, params: bytes = b""
    ) -> tuple[int, bytes]:
        """Status of a control, and its parameters with the answer."""
        asked = rpc.Control.make(
            client=client, handle=handle, command=command, parameters_size=len(params)
        )
        answer = self.call(rpc.Function.GSP_RM_CONTROL, bytes(asked) + params)
        return rpc.Control(answer).status, answer[rpc.Control.SIZE :]

    # Objects.

    def make_device(self, client: int) -> None:
        """Client, device, subdevice, address space."""

        def make(parent: int, class_id: int, params: Struct) -> int:
            handle, status = self.allocate(client, parent, class_id, params)
            assert status == 0, status
            return handle

        make(0, ObjectClass.ROOT, rm.ClientParams.make())
        self.device = make(client, ObjectClass.DEVICE, rm.DeviceParams.make(client_share=client))
        self.subdevice = make(self.device, ObjectClass.SUBDEVICE, rm.SubdeviceParams.make())
        self.space = make(self.device, ObjectClass.VA_SPACE, rm.VaSpaceParams570.make())

    def channel_params(self, ring: int, **changed: int) -> rm.ChannelParams:
        lent = self.lend(0x8000)

        def memory(at: int, size: int) -> rm.MemoryDescription:
            return rm.MemoryDescription.make(base=lent + at, size=size, address_space=2)

        self.userd = lent + 0x2000
        return rm.ChannelParams.make(**{
            "gpfifo_offset": ring, "gpfifo_entries": 32, "va_space": self.space,
            "engine_type": 1, "instance_memory": memory(0, 0x1000),
            "ramfc_memory": memory(0, 0x200), "userd": memory(0x2000, 0x200),
            "method_buffer": memory(0x3000, 0x5000), **changed,
        })  # fmt: skip

    def promote(
        self, client: int, channel: int, buffers: frozenset[BufferId], root: int, **changed: int
    ) -> int:
        """Lend, map and tell of context buffers; the status."""
        asked = PromoteContext.make(
            engine=1, channel_client=client, channel=channel, count=len(buffers)
        )
        for index, buffer in enumerate(sorted(buffers)):
            size = max(CONTEXT_BYTES.values())
            physical, virtual = FREE + 32 * MiB + buffer * size, CONTEXT_VA + buffer * size
            self.map(root, virtual, physical)
            asked.entries[index].assign(**{
                "physical": physical, "virtual": virtual, "size": size, "attributes": 4,
                "buffer_id": buffer, "initialize": 1, **changed,
            })  # fmt: skip
        self.invalidate()
        return self.control(client, self.subdevice, GspControl.GPU_PROMOTE_CTX, bytes(asked))[0]

    def make_golden(self) -> None:
        self.make_device(INTERNAL)
        root = self.new_root()
        asked = CopyReservedPdes.make(
            page_size=512 * MiB, first=SERVERS_VA, last=SERVERS_VA + 512 * MiB - 1, level_count=3
        )
        for level in range(3):
            asked.levels[level].assign(
                address=self.table(root, SERVERS_VA, level), size=PAGE, aperture=1,
                page_shift=self.format.shifts[level],
            )  # fmt: skip
        command = GspControl.VASPACE_COPY_SERVER_RESERVED_PDES
        assert self.control(INTERNAL, self.space, command, bytes(asked))[0] == 0
        self.map(root, RING_VA, self.lend(PAGE))
        self.invalidate()
        product = self.card.product
        params = self.channel_params(RING_VA, flags=1 << 21, channel_id=3)
        channel, status = self.allocate(INTERNAL, self.device, product.gpfifo[-1], params)
        assert status == 0
        assert self.promote(INTERNAL, channel, GOLDEN_BUFFERS, root) == 0
        assert self.allocate(INTERNAL, channel, product.compute)[1] == 0

    def make_user(self) -> None:
        """A client whose space has its own root, and one channel with compute on it."""
        self.make_device(USER)
        self.root = self.new_root()
        assert self.set_root(self.root) == 0
        self.ring = self.lend(PAGE)
        self.map(self.root, RING_VA, self.ring)
        self.invalidate()
        product = self.card.product
        params = self.channel_params(RING_VA)
        self.channel, status = self.allocate(USER, self.device, product.gpfifo[-1], params)
        assert status == 0
        assert self.allocate(USER, self.channel, product.compute)[1] == 0
        assert self.promote(USER, self.channel, USER_BUFFERS, self.root) == 0
        status, answer = self.control(USER, self.channel, WorkSubmitToken.COMMAND, bytes(4))
        assert status == 0
        self.token = WorkSubmitToken(answer).token
        self.token |= self.chip.token_enabled << 30

    def set_root(self, root: int, **changed: int) -> int:
        flags = rpc.PageDirectoryFlags(all_channels=1)
        asked = rpc.SetPageDirectory.make(**{
            "client": USER, "device": self.device, "pasid": rpc.NO_PASID, "address": root,
            "entries": self.format.root, "flags": flags, "va_space": self.space, "subdevice": 1,
            "inner_pasid": rpc.NO_PASID, **changed,
        })  # fmt: skip
        self.send(rpc.Function.SET_PAGE_DIRECTORY, bytes(asked))
        at = self.status + PAGE + self._read * PAGE
        result = rpc.Header(self.block.read(at, rpc.Header.SIZE)).record.result
        self.pump()
        return result

    def schedule(self) -> None:
        command, params = 0xA06F_0103, bytes(ScheduleOf570.make(enable=1))
        assert self.control(USER, self.channel, command, params)[0] == 0

    def push(self, words: list[int], at: int = FREE_VA) -> None:
        """Point the ring's first entry at a pushbuffer and ring the doorbell."""
        data = b"".join(word.to_bytes(4, "little") for word in words)
        self.bar1.write(FREE + 16 * MiB, data)
        self.bar1.write64(self.ring, at & ~3 | 1 << 41 | len(words) << 42)
        self.bar1.write32(self.userd + 0x8C, 1)
        self.ring_doorbell(self.token)

    def ring_doorbell(self, token: int) -> None:
        Usermode(self.bar0, USERMODE_OFFSET).NOTIFY_CHANNEL_PENDING.write(token)


def _lay_out(meta: gsp.WprMeta) -> None:
    """Regions below the end of local memory, as the booter wants them."""
    vga = VRAM - MiB
    meta.assign(
        fb_size=VRAM, vga_workspace_offset=vga, vga_workspace_size=MiB, wpr_end=vga,
        frts_offset=FRTS, boot_binary_offset=FRTS - meta.bootloader_size,
        image_offset=FRTS - meta.bootloader_size - GSP_BYTES & -0x1_0000,
    )  # fmt: skip
    meta.heap_offset = meta.image_offset - meta.heap_size & -MiB
    meta.wpr_start = meta.heap_offset - PAGE & -MiB
    meta.non_wpr_heap_offset = meta.reserved_start = meta.wpr_start - MiB


def _sections(file: bytes) -> dict[str, bytes]:
    from typing import Any, cast

    from tinygrad.runtime.support import elf

    loader = cast("Any", elf)
    return {section.name: bytes(section.content) for section in loader.elf_loader(file)[1]}
