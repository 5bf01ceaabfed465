"""Firmware files with the layout of linux-firmware and nothing in them.

Packed by hand from the published headers (amd.md section 4.1), not by our own descriptions, so that
a driver that reads them proves something. The pieces hold a pattern with their name, small enough
for tests; a software card verifies no signature.
"""

import struct

UCODE = 0x100
START = 0x7_0000_0000_3000
"""Where RS64 engines begin, as in the real files."""


def piece(name: str, size: int = 0x1000) -> bytes:
    return (name.encode().ljust(16, b".") * (size // 16 + 1))[:size]


def common(body_size: int, header_size: int, major: int, minor: int, ucode_size: int) -> bytes:
    size = UCODE + body_size
    return struct.pack(
        "<IIHHHHIIII", size, header_size, major, minor, 1, 0, 1, ucode_size, UCODE, 0
    )


def file(fields: bytes, body: bytes, major: int, minor: int, ucode_size: int = 0) -> bytes:
    head = common(len(body), 32 + len(fields), major, minor, ucode_size or len(body)) + fields
    assert len(head) <= UCODE
    return head.ljust(UCODE, b"\0") + body


def psp(kinds: list[tuple[int, str]]) -> bytes:
    """psp v2.0: (type, version, offset from the ucode array, size) per piece."""
    table, body = struct.pack("<I", len(kinds)), b""
    for kind, name in kinds:
        content = piece(name, 0x2000)
        table += struct.pack("<IIII", kind, 1, len(body), len(content))
        body += content
    return file(table, body, 2, 0)


def smu(minor: int) -> bytes:
    body = piece("SMU", 0x8000)
    return file(struct.pack("<III", 0, 0, 0), body, 2, minor)


def sdma2() -> bytes:
    context, control = piece("SDMA_CTX"), piece("SDMA_CTL")
    fields = struct.pack("<8I", 0, len(context), 0, 0, UCODE + len(context), len(control), 0, 0)
    return file(fields, context + control, 2, 0, len(context))


def sdma3() -> bytes:
    body = piece("SDMA")
    return file(struct.pack("<III", 0, UCODE, len(body)), body, 3, 0)


def engine(name: str) -> bytes:
    """gfx v2.0."""
    code, data = piece(name), piece(name + "_DATA")
    fields = struct.pack(
        "<IIIIIII",
        0,
        len(code),
        UCODE,
        len(data),
        UCODE + len(code),
        START & 0xFFFFFFFF,
        START >> 32,
    )
    return file(fields, code + data, 2, 0, len(code))


def imu() -> bytes:
    iram, dram = piece("IMU_I"), piece("IMU_D")
    return file(struct.pack("<IIII", len(iram), 0, len(dram), 0), iram + dram, 1, 0, len(iram))


def rlc(minor: int) -> bytes:
    """rlc v2.2 or v2.3; the fields before 0x9C are not used."""
    names = ["RLC_G", "RLC_IRAM", "RLC_DRAM"] + (["RLC_P", "RLC_V"] if minor == 3 else [])
    places, body = {}, b""
    for name in names:
        places[name] = (UCODE + len(body), piece(name))
        body += places[name][1]
    size_and_offset = {name: (len(data), at) for name, (at, data) in places.items()}
    fields = bytearray((0xCC if minor == 3 else 0xAC) - 32)
    struct.pack_into("<II", fields, 0x9C - 32, *size_and_offset["RLC_IRAM"])
    struct.pack_into("<II", fields, 0xA4 - 32, *size_and_offset["RLC_DRAM"])
    if minor == 3:
        struct.pack_into("<II", fields, 0xB4 - 32, *size_and_offset["RLC_P"])
        struct.pack_into("<II", fields, 0xC4 - 32, *size_and_offset["RLC_V"])
    return file(bytes(fields), body, 2, minor, len(places["RLC_G"][1]))


SOS, SYS, KDB, TOC, SPL, SOC, INTF, DBG, RAS = 1, 2, 3, 4, 5, 7, 8, 9, 10
NAVI3X_PSP = [(SYS, "SYS"), (SOS, "SOS"), (TOC, "TOC"), (KDB, "KDB"), (SPL, "SPL")]
NAVI4X_PSP = [
    (KDB, "KDB"), (SYS, "SYS"), (SOS, "SOS"), (SOC, "SOC"), (INTF, "INTF"), (DBG, "DBG"),
    (TOC, "TOC"), (SPL, "SPL"), (RAS, "RAS"),
]  # fmt: skip


def files(gc: str, mp: str, sdma: str) -> dict[str, bytes]:
    """Every file of a chip, by name; versions as in the names: `11_0_0`."""
    if gc.startswith("11"):
        return {
            f"psp_{mp}_sos.bin": psp(NAVI3X_PSP),
            f"smu_{mp}.bin": smu(1),
            f"sdma_{sdma}.bin": sdma2(),
            f"gc_{gc}_mec.bin": engine("MEC"),
            f"gc_{gc}_imu.bin": imu(),
            f"gc_{gc}_rlc.bin": rlc(3),
        }
    return {
        f"psp_{mp}_sos.bin": psp(NAVI4X_PSP),
        f"smu_{mp}.bin": smu(0),
        f"sdma_{sdma}.bin": sdma3(),
        f"gc_{gc}_pfp.bin": engine("PFP"),
        f"gc_{gc}_me.bin": engine("ME"),
        f"gc_{gc}_mec.bin": engine("MEC"),
        f"gc_{gc}_imu.bin": imu(),
        f"gc_{gc}_rlc.bin": rlc(2),
    }


BY_TARGET = {
    "gfx1100": ("11_0_0", "13_0_0", "6_0_0"),
    "gfx1102": ("11_0_2", "13_0_7", "6_0_2"),
    "gfx1201": ("12_0_1", "14_0_3", "7_0_1"),
}


def for_target(target: str) -> dict[str, bytes]:
    return files(*BY_TARGET[target])
