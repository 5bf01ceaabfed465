"""A libcuda of Python that is stricter than NVIDIA's: what it does not like is kept as a misuse.

`Libcuda` offers the functions of `driver.cuda.library.FUNCTIONS` through the C ABI: each is a C
function pointer of the declared type. Kernels run as PTX on `softcard.nvidia.ptx`, never as machine
code. It is lazy where the real one is asynchronous: what was asked of a stream happens when the
stream is waited for, and not before.
"""

from tests.softcard.libcuda.functions import Libcuda

__all__ = ["Libcuda"]
