"""`AddressSpace`: which memory a GPU sees at which virtual address, told to `/dev/nvidia-uvm`.

Unified memory owns the page tables. A range of addresses is declared "external", then memory that
the resource manager has made is mapped into it; the kernel keeps the TLBs right. Nothing here moves
pages by itself: no managed memory is ever made.
"""

from __future__ import annotations

import contextlib
from typing import TypeVar

from exosuit.driver.nvidia.kernel_driver import refusals
from exosuit.driver.nvidia.kernel_driver.client import KernelClient
from exosuit.errors import ExosuitError
from exosuit.silicon.nvidia import uvm

CHANNEL_ADDRESSES = 64 << 20
"""Addresses that a channel needs for what its engine keeps."""

U = TypeVar("U", bound=uvm.UvmCall)


class AddressSpace:
    """The address space of this process on one GPU."""

    def __init__(self, client: KernelClient) -> None:
        """Open the node and make the file an address space. Raises HelperMissing and the like."""
        self._client = client
        self._fd = client.open(refusals.UVM_NODE)
        self._second = -1
        self._uuid = b""
        try:
            self._call(uvm.Initialize.make())
            self._tie_to_process()
        except BaseException:
            self.close()
            raise

    def register(self, uuid: bytes, va_space: int) -> None:
        """Take over the page tables of the GPU's address space `va_space`."""
        self._uuid = uuid
        self._call(uvm.RegisterGpu.make(uuid=uuid, control_fd=-1))
        client = self._client
        self._call(
            uvm.RegisterGpuVaSpace.make(
                uuid=uuid, control_fd=client.fd, client=client.client, va_space=va_space
            )
        )

    def register_channel(self, channel: int, base: int) -> None:
        """Map what a channel's engine keeps into `CHANNEL_ADDRESSES` from `base` on."""
        client = self._client
        self._call(
            uvm.RegisterChannel.make(
                uuid=self._uuid,
                control_fd=client.fd,
                client=client.client,
                channel=channel,
                base=base,
                length=CHANNEL_ADDRESSES,
            )
        )

    def unregister_channel(self, channel: int) -> None:
        kind = self._client.branch.uvm_unregister_channel
        call = kind.make(client=self._client.client, channel=channel)
        if isinstance(call, uvm.UnregisterChannelOf570):
            call.uuid = self._uuid
        self._call(call)

    def map(self, memory: int, base: int, size: int) -> None:
        """Let the GPU see the memory of handle `memory` at `base`, for reads, writes, atomics."""
        self._call(uvm.CreateExternalRange.make(base=base, length=size))
        client = self._client
        call = uvm.MapExternalAllocation.make(
            base=base,
            length=size,
            mapping_count=1,
            control_fd=client.fd,
            client=client.client,
            memory_handle=memory,
        )
        how = call.mappings[0]
        how.uuid = self._uuid
        how.mapping_type = uvm.MappingType.READ_WRITE_ATOMIC
        try:
            self._call(call)
        except ExosuitError:
            self.unmap(base, size)
            raise

    def unmap(self, base: int, size: int) -> None:
        """Forget a range and what was mapped there."""
        call = self._client.branch.uvm_free.make(base=base)
        if isinstance(call, uvm.FreeOf570):
            call.length = size
        self._call(call)

    def close(self) -> None:
        """Give up the address space. Idempotent."""
        for fd in (self._second, self._fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    self._client.nodes.close(fd)
        self._fd = self._second = -1

    def _tie_to_process(self) -> None:
        """Let the address space follow the life of the process; not every kernel can."""
        self._second = self._client.open(refusals.UVM_NODE)
        call = uvm.MmInitialize.make(uvm_fd=self._fd)
        # libcuda meets a refusal here as well, and goes on.
        self._client.call("UVM MmInitialize", self._second, call.REQUEST, call)

    def _call(self, call: U) -> U:
        what = f"UVM {type(call).__name__}"
        answer = self._client.call(what, self._fd, call.REQUEST, call)
        status = getattr(answer, "status", 0)
        if status:
            raise refusals.refused(what, status)
        return answer
