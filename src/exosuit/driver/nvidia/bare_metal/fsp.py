"""Talking to the FSP: one message starts the GSP on Hopper and Blackwell.

Sources: open-gpu-kernel-modules 570.144 `kern_fsp_gh100.c`, `kernel_gsp_gh100.c`
(_kgspLockdownReleasedOrFmcError); tinygrad `nv/ip.py`.
"""

from __future__ import annotations

from exosuit.clock import Clock, wait_until
from exosuit.driver.boot import poll
from exosuit.driver.nvidia.bare_metal.registers import Registers
from exosuit.errors import BootFailed
from exosuit.silicon.nvidia.boot import is_refused
from exosuit.silicon.nvidia.falcon import is_locked_out
from exosuit.silicon.nvidia.fsp import (
    COT_VERSION,
    ChainOfTrust,
    EmemPort,
    Nvdm,
    NvdmType,
    Response,
    message,
)
from exosuit.silicon.pci import ALL_ONES

_ANSWER_S = 4.0
_LOCKDOWN_S = 10.0


def start_gsp(registers: Registers, clock: Clock, request: ChainOfTrust) -> None:
    """Ask the FSP to start the GSP. Raises BootFailed where it refuses, or says nothing."""
    request.assign(version=COT_VERSION, size=ChainOfTrust.SIZE)
    answer = _exchange(registers, clock, message(NvdmType.COT, bytes(request)))
    head = Nvdm(int.from_bytes(answer[4:8], "little"))
    if head.type != NvdmType.FSP_RESPONSE or len(answer) < 8 + Response.SIZE:
        raise BootFailed(
            f"the card's FSP answered something else ({answer[:20].hex()})",
            cause="an earlier boot left it in the middle of an exchange",
            next="switch the enclosure off and on, then try again",
            answer=answer.hex(),
        )
    response = Response(answer, 8)
    if response.error:
        raise BootFailed(
            f"the card's FSP refuses to start the GSP (error {response.error:#x})",
            cause="the firmware file does not suit this card, or the card was booted before and"
            " not reset",
            next="switch the enclosure off and on; if it stays:  exosuit setup --yes",
            error=response.error,
        )


def wait_unlocked(registers: Registers, clock: Clock, boot_arguments: int) -> None:
    """Until the FMC has handed over and the host may look at the GSP again.

    boot_arguments  whose address stands in the mailboxes until the FMC has read them; any other
                    value there is its error
    """
    seen: list[int] = [0, 0]

    def is_over() -> bool:
        mailbox = int(registers.gsp.MAILBOX0.read())
        if mailbox == ALL_ONES:
            registers.check_alive()
        if is_locked_out(mailbox) or is_refused(mailbox):
            return False
        if mailbox == boot_arguments & 0xFFFF_FFFF and mailbox:
            return False
        hardware = registers.gsp.HWCFG2.read()
        seen[:] = [mailbox, int(hardware)]
        return bool(mailbox) or not hardware.riscv_br_priv_lockdown

    if wait_until(is_over, clock, _LOCKDOWN_S, 1e-3) and not seen[0]:
        return
    registers.check_alive()
    error = f"error {seen[0]:#x}" if seen[0] else "it says nothing"
    raise BootFailed(
        f"the card's FMC did not start the GSP ({error})",
        cause="it was not given what it expects, or the card was booted before and not reset",
        next="switch the enclosure off and on, then  exosuit doctor --report FILE",
        mailbox0=seen[0],
        hwcfg2=seen[1],
    )


def _exchange(registers: Registers, clock: Clock, sent: bytes) -> bytes:
    """Put a message into the FSP's memory, announce it, and fetch the answer."""
    fsp = registers.fsp
    if fsp.QUEUE_HEAD[0].read() != fsp.QUEUE_TAIL[0].read():
        poll(
            lambda: int(fsp.QUEUE_HEAD[0].read()), lambda head: head == fsp.QUEUE_TAIL[0].read(),
            clock, _ANSWER_S, "FSP: the taking of an earlier message", registers.check_alive, 1e-3,
        )  # fmt: skip
    if fsp.MSGQ_HEAD[0].read() != fsp.MSGQ_TAIL[0].read():
        fsp.MSGQ_TAIL[0].write(fsp.MSGQ_HEAD[0].read())  # an answer that nobody fetched
    fsp.EMEMC[0].write(EmemPort(increment_on_write=True))
    for at in range(0, len(sent), 4):
        fsp.EMEMD[0].write(int.from_bytes(sent[at : at + 4], "little"))
    fsp.QUEUE_TAIL[0].write(len(sent) - 4)
    fsp.QUEUE_HEAD[0].write(0)
    head = poll(
        lambda: int(fsp.MSGQ_HEAD[0].read()), lambda head: head != fsp.MSGQ_TAIL[0].read(),
        clock, _ANSWER_S, "FSP: its answer", registers.check_alive, 1e-3,
    )  # fmt: skip
    size = min(int(fsp.MSGQ_TAIL[0].read()) - head + 4, 1024)
    fsp.EMEMC[0].write(EmemPort(increment_on_read=True))  # our channel begins at 0, both ways
    words = [int(fsp.EMEMD[0].read()) for _ in range(max(size, 0) // 4)]
    fsp.MSGQ_TAIL[0].write(head)
    return b"".join(word.to_bytes(4, "little") for word in words)
