"""NVIDIA's kernel driver for Linux, made of Python: the device nodes and what answers behind them.

It takes the ioctls that a user-space driver makes, refuses with the status codes of the real one,
and executes what channels are given. PTX stands in for machine code. Everything happens in the
process that calls, as in a kernel: addresses in records are this process's own.
"""

from exosuit.softcard.nvidia.kernel_driver.driver import SoftKernelDriver

__all__ = ["SoftKernelDriver"]
