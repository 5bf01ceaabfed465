"""NVIDIA cards through libcuda: the driver that is installed does the work below the launch."""

from exosuit.driver.cuda.device import CudaDevice
from exosuit.driver.cuda.library import Library

__all__ = ["CudaDevice", "Library"]
