"""The level of an Arm host, from what its system says of it."""

from __future__ import annotations

import ctypes
import platform

import pytest

from exosuit.errors import UsageError
from exosuit.kernel import Target, host_arm
from exosuit.kernel.target import _host_name

M1 = {"FEAT_FP16", "FEAT_DotProd"}
M2 = M1 | {"FEAT_I8MM", "FEAT_BF16"}
RASPBERRY_PI_4, RASPBERRY_PI_5, GRAVITON_3 = (0x8FF, 0), (0x119FFF, 0), (0x11FFFF, 0x6000)


class MacLibrary:
    """`sysctlbyname` of a Mac whose cores have `features`; other keys are unknown."""

    def __init__(self, features):
        self.features = features

    def sysctlbyname(self, key, value, size, new, new_size):
        assert (size._obj.value, new, new_size) == (4, None, 0)
        if key == b"hw.optional.arm.FEAT_BF16" and "FEAT_BF16" not in self.features:
            return -1
        value._obj.value = int(key.decode().rpartition(".")[2] in self.features)
        return 0


class LinuxLibrary:
    def __init__(self, words):
        def getauxval(word):
            return words[(16, 26).index(word)]

        self.getauxval = getauxval


@pytest.fixture
def host(monkeypatch):
    """`host(system, library, level)`: the target's name on such a machine."""

    def pretend(system, library, level=""):
        monkeypatch.setattr(platform, "system", lambda: system)
        monkeypatch.setattr(platform, "machine", lambda: "arm64")
        monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
        _host_name.cache_clear()
        return Target.host(level).name

    yield pretend
    _host_name.cache_clear()


@pytest.mark.parametrize(
    ("features", "level"),
    [(set(), "neon"), (M1, "dotprod"), (M2, "i8mm")],
    ids=["none", "M1", "M2"],
)
def test_mac(host, features, level):
    assert host("Darwin", MacLibrary(features)) == f"aarch64-{level}"


@pytest.mark.parametrize(
    ("words", "level"),
    [(RASPBERRY_PI_4, "neon"), (RASPBERRY_PI_5, "dotprod"), (GRAVITON_3, "i8mm")],
    ids=str,
)
def test_linux(host, words, level):
    assert host("Linux", LinuxLibrary(words)) == f"aarch64-{level}"


def test_asking_for_less_or_for_more(host):
    assert host("Darwin", MacLibrary(M2), "dotprod") == "aarch64-dotprod"
    with pytest.raises(UsageError, match="no 'i8mm'"):
        host("Darwin", MacLibrary(M1), "i8mm")


def test_every_feature_that_a_level_compiles_for_is_asked_for():
    for level in ("neon", "dotprod", "i8mm"):
        features = set(Target.named(f"aarch64-{level}").features.replace("+", "").split(","))
        assert features <= {"neon", "fp-armv8", *host_arm.EXTENSIONS}
