"""Boot a Debian kernel in QEMU's software emulation and run a Python program of this tree in it.

    apt-get install qemu-system-x86 busybox-static
    python -m tests.qemu.guest fetch           a Debian kernel into KERNEL
    python -m tests.qemu.guest plain|iommu     run the `edu` device's checks in a guest

The guest's root is this machine's, read-only over 9p, so nothing has to be installed in it. A guest
takes about 12 seconds on two cores. EXOSUIT_TEST_KERNEL names another unpacked kernel package.
"""

import gzip
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

KERNEL = Path(
    os.environ.get("EXOSUIT_TEST_KERNEL") or Path.home() / ".cache" / "exosuit-test-kernel"
)
ROOT = Path(__file__).resolve().parents[2]
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "vfio", "vfio_pci", "vfio_iommu_type1")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
echo 16 > /proc/sys/vm/nr_hugepages
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host
/bin/busybox mount -t proc proc /host/proc
/bin/busybox mount -t sysfs sys /host/sys
/bin/busybox mount -t devtmpfs dev /host/dev
/bin/busybox mount -t tmpfs run /host/run
export PATH=/usr/bin:/bin HOME=/run PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={root}
/bin/busybox chroot /host /bin/sh -c "cd {root} && {python} {program} {arguments}"
/bin/busybox poweroff -f
"""


def missing() -> str:
    """What this machine lacks to run a guest, or nothing."""
    for program in ("qemu-system-x86_64", "busybox"):
        if not any((Path(folder) / program).exists() for folder in os.get_exec_path()):
            return f"{program} is not installed"
    if not list(KERNEL.glob("boot/vmlinuz-*")):
        return f"there is no kernel in {KERNEL} (python -m tests.qemu.guest fetch)"
    return ""


def fetch() -> None:
    """Download Debian's kernel package with apt-get and unpack it, without installing it."""
    listed = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True
    ).stdout
    package = re.search(r"Depends: (linux-image-\S+)", listed)
    if package is None:
        raise SystemExit("apt knows no linux-image-amd64; is this Debian, and was it updated?")
    KERNEL.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", package[1]], cwd=folder, check=True)
        archive = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(KERNEL)], check=True)


def ordered(folder: Path, wanted: tuple[str, ...]) -> list[Path]:
    """Module files of `wanted` and what they depend on, dependencies first."""
    files = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    found: list[Path] = []

    def visit(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in found:  # what is no module is built in
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for other in (depends[1].decode() if depends else "").split(","):
            visit(other)
        found.append(path)

    for name in wanted:
        visit(name)
    return found


def entry(name: str, mode: int, data: bytes, number: int) -> bytes:
    """One file of a cpio archive in the `newc` form, as the kernel unpacks it."""
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % n for n in numbers) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(kernel: Path, program: str, arguments: str) -> bytes:
    modules = ordered(kernel / "lib/modules", MODULES)
    init = INIT.format(
        modules=" ".join(path.stem for path in modules),
        root=ROOT,
        python=sys.executable,
        program=program,
        arguments=arguments,
    )
    busybox = next(
        path for f in os.get_exec_path() if (path := Path(f) / "busybox").exists()
    ).read_bytes()
    parts = [
        ("bin", 0o40755, b""),
        ("modules", 0o40755, b""),
        ("bin/busybox", 0o100755, busybox),
        ("init", 0o100755, init.encode()),
        *((f"modules/{path.name}", 0o100644, path.read_bytes()) for path in modules),
        ("TRAILER!!!", 0, b""),
    ]
    return gzip.compress(b"".join(entry(*part, n) for n, part in enumerate(parts)), 1)


def boot(program: str, arguments: str, *, iommu: bool, timeout_s: float = 280) -> str:
    """Run `program` in a guest that has an `edu` device; gives the console's text."""
    image = next(KERNEL.glob("boot/vmlinuz-*"))
    with tempfile.NamedTemporaryFile(suffix=".cpio.gz") as archive:
        archive.write(initramfs(KERNEL, program, arguments))
        archive.flush()
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "768M", "-nographic",
            "-no-reboot", "-machine", "q35,kernel-irqchip=split" if iommu else "q35",
            "-kernel", str(image), "-initrd", archive.name, "-append",
            f"console=ttyS0 quiet panic=-1 intel_iommu={'on' if iommu else 'off'}",
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            "-nic", "none",
            *(("-device", "intel-iommu") if iommu else ()),
            "-device", "pcie-root-port,id=socket0,chassis=1",
            "-device", "edu,bus=socket0,dma_mask=0xffffffffff",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    return done.stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        fetch()
    else:
        print(boot("tests/qemu/edu.py", sys.argv[1], iommu=sys.argv[1] == "iommu"))
