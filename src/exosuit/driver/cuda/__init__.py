"""NVIDIA cards through libcuda: the driver that is installed does the work below the launch."""

from exosuit.driver.cuda.device import HANG_S, CudaDevice
from exosuit.driver.cuda.library import Library

__all__ = ["HANG_S", "CudaDevice", "Library"]
