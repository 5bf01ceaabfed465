"""The host as a device: worker threads that replay step tables without the interpreter."""

from exosuit.driver.cpu.device import CpuDevice

__all__ = ["CpuDevice"]
