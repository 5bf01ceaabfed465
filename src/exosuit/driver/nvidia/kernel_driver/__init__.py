"""An NVIDIA card through NVIDIA's own kernel driver on Linux: `/dev/nvidiactl` and its siblings.

The driver has booted the card; this room makes the objects that computing takes, maps memory for
the GPU through `/dev/nvidia-uvm`, and hands a `Route` to the device above. No libcuda.
"""

from exosuit.driver.nvidia.kernel_driver.route import KernelDriverRoute

__all__ = ["KernelDriverRoute"]
