"""What NVIDIA's kernel driver refuses, in three lines: by errno of a call, by status of a record.

Numbers mean little to people, and the same number asks for different things: a module that is not
loaded, a file that may not be opened, a driver of another age, a card that has fallen off the bus.
"""

from __future__ import annotations

import errno

from exosuit.errors import (
    BootFailed,
    CardBusy,
    CardHung,
    DoesNotFit,
    ExosuitError,
    HelperMissing,
    LinkLost,
    PermissionNeeded,
    ProtocolError,
    UnsupportedCard,
)
from exosuit.silicon.nvidia.branches import BRANCHES
from exosuit.silicon.nvidia.rm import Status, status_name

UVM_NODE = "/dev/nvidia-uvm"
_REPORT = "exosuit doctor --report FILE"


def cannot_open(path: str, error: OSError) -> ExosuitError:
    """A node that does not open."""
    module = "nvidia-uvm" if path.startswith(UVM_NODE) else "nvidia"
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return HelperMissing(
            f"{path} is not there",
            cause=f"NVIDIA's kernel module {module} is not loaded, or made no device nodes",
            next=f"sudo modprobe {module}   and   sudo nvidia-modprobe -u -c=0",
            path=path,
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionNeeded(
            f"{path} may not be opened",
            cause="its permissions are for another user or group, or a container hides the card",
            next=f"ls -l {path}   and join its group, or run it as root",
            path=path,
        )
    if error.errno == errno.EBUSY:
        return CardBusy(
            f"{path} is in use",
            cause="another process has the card for itself (exclusive compute mode)",
            next="nvidia-smi",
            path=path,
        )
    return BootFailed(
        f"NVIDIA's kernel driver cannot start the card behind {path} ({_name(error)})",
        cause="the card or its firmware does not answer; the kernel's log says more (NVRM)",
        next="sudo dmesg | grep NVRM",
        path=path,
        errno=error.errno,
    )


def call_failed(what: str, error: OSError) -> ExosuitError:
    """An ioctl or mmap that the kernel itself turned down."""
    if error.errno in (errno.EINVAL, errno.ENOTTY):
        return ProtocolError(
            f"NVIDIA's kernel driver does not take {what} as exosuit sends it",
            cause="its records have another size: a driver that this version does not know",
            next="use libcuda instead:  --device cuda:0",
            call=what,
            errno=error.errno,
        )
    if error.errno in (errno.ENODEV, errno.EIO):
        return lost(what)
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return DoesNotFit(
            f"the host's memory is not enough for {what} ({_name(error)})",
            cause="memory for the card is locked, and a limit on locked memory may stand",
            next="ulimit -l unlimited",
            call=what,
        )
    return BootFailed(
        f"NVIDIA's kernel driver failed at {what} ({_name(error)})",
        cause="the kernel's log says more (NVRM)",
        next="sudo dmesg | grep NVRM",
        call=what,
        errno=error.errno,
    )


def refused(what: str, status: int) -> ExosuitError:
    """A record that came back with a status other than OK."""
    named = f"{what}: {status_name(status)}"
    match status:
        case Status.GPU_IS_LOST | Status.CARD_NOT_PRESENT | Status.GPU_IN_FULLCHIP_RESET:
            return lost(what, status)
        case Status.NO_MEMORY | Status.INSUFFICIENT_RESOURCES:
            return DoesNotFit(
                f"NVIDIA's kernel driver has no room for {named}",
                cause="the card's memory is taken, by this process or by others",
                next="nvidia-smi   and   exosuit plan MODEL",
                status=status,
            )
        case Status.INSUFFICIENT_PERMISSIONS:
            return PermissionNeeded(
                f"NVIDIA's kernel driver does not allow {named}",
                cause="the call asks for rights that this user lacks",
                next="run it as root",
                status=status,
            )
        case Status.INVALID_CLASS:
            return UnsupportedCard(
                f"the card has no object for {named}",
                cause="its family is one that this version does not know",
                next=_REPORT,
                status=status,
            )
        case Status.INVALID_PARAM_STRUCT | Status.LIB_RM_VERSION_MISMATCH:
            return ProtocolError(
                f"NVIDIA's kernel driver reads {named} otherwise",
                cause="the record changed in its version, and exosuit's table says another size",
                next="use libcuda instead:  --device cuda:0",
                status=status,
            )
        case (
            Status.FABRIC_MANAGER_NOT_PRESENT
            | Status.NVLINK_FABRIC_NOT_READY
            | Status.NVLINK_FABRIC_FAILURE
        ):
            return BootFailed(
                f"the card waits for its fabric: {named}",
                cause="GPUs on an NVSwitch board compute only while the fabric manager runs,"
                " in the driver's own version",
                next="sudo systemctl start nvidia-fabricmanager",
                status=status,
            )
        case Status.RESET_REQUIRED | Status.FATAL_ERROR:
            return CardHung(
                f"the card must be reset: {named}",
                cause="an earlier program left it in a state that it cannot leave by itself",
                next="sudo nvidia-smi --gpu-reset",
                status=status,
            )
        case Status.TIMEOUT:
            return CardHung(
                f"the card's firmware does not answer: {named}",
                cause="it hangs, or something holds it for long (Xid 119 in the kernel's log)",
                next="sudo dmesg | grep Xid",
                status=status,
            )
        case _:
            return ProtocolError(
                f"NVIDIA's kernel driver refuses {named}",
                cause="exosuit asked for it in an order or form that this driver does not take",
                next=_REPORT,
                status=status,
            )


def lost(what: str, status: int | None = None) -> LinkLost:
    """The card is gone."""
    return LinkLost(
        f"the card is gone (at {what})",
        cause="it fell off the bus (Xid 79), was unplugged, or is being reset",
        next="sudo dmesg | grep Xid   then   exosuit list",
        status=status,
    )


def unknown_version(version: str) -> ProtocolError:
    """A driver that there is no table for."""
    known = ", ".join(str(number) for number in BRANCHES)
    return ProtocolError(
        f"NVIDIA's kernel driver is {version or 'of no version'}, which exosuit has no tables for",
        cause=f"its records change from branch to branch; known are {known}",
        next="use libcuda instead:  --device cuda:0",
        version=version,
    )


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
