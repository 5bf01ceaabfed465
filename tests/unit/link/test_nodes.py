"""The nodes of Linux: real files, a real ioctl, a real mapping."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios

import pytest

from exosuit.link.nodes import LinuxNodes, MappedNode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="device nodes as Linux has them")


def test_a_node_is_opened_and_closed():
    nodes = LinuxNodes()
    fd = nodes.open("/dev/zero")
    assert os.read(fd, 3) == bytes(3)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    nodes.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        nodes.close(fd)
    with pytest.raises(FileNotFoundError):
        nodes.open("/dev/nvidia-that-is-not-there")


def test_an_ioctl_changes_its_record():
    """The size of a terminal: four 16-bit numbers, set by one request and read by another."""
    nodes = LinuxNodes()
    master, slave = pty.openpty()
    nodes.ioctl(slave, termios.TIOCSWINSZ, bytearray(struct.pack("<4H", 11, 22, 33, 44)))
    record = bytearray(8)
    nodes.ioctl(slave, termios.TIOCGWINSZ, record)
    assert struct.unpack("<4H", record) == (11, 22, 33, 44)
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        nodes.ioctl(nodes.open("/dev/null"), termios.TIOCGWINSZ, record)
    nodes.close(master)
    nodes.close(slave)


def test_a_mapping_is_the_memory_of_its_file():
    fd = os.memfd_create("shown")
    os.ftruncate(fd, 8192)
    mapping = LinuxNodes().map(fd, 8192)
    assert isinstance(mapping, MappedNode)
    assert mapping.size == 8192
    mapping.write32(4096, 0xDEADBEEF)
    mapping.write(8, bytes(range(12)))
    assert os.pread(fd, 4, 4096) == b"\xef\xbe\xad\xde"
    assert os.pread(fd, 12, 8) == bytes(range(12))
    os.pwrite(fd, b"\x01\x02\x03\x04", 12)
    assert mapping.read32(12) == 0x0403_0201
    mapping.flush()
    mapping.close()
    os.close(fd)


def test_nothing_to_map():
    nodes = LinuxNodes()
    fd = nodes.open("/dev/null")
    with pytest.raises(OSError, match="No such device"):
        nodes.map(fd, 4096)
    nodes.close(fd)
