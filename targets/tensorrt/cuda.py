"""The CUDA runtime of the system, by ctypes: what cuda-python's functions of these names give, status first.

So a board needs no package whose version must match its CUDA.
"""

import ctypes
from contextlib import suppress
from ctypes import byref, c_int, c_size_t, c_void_p
from types import SimpleNamespace
from typing import Any

LIBRARIES = (
    *("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"),
    "/usr/local/cuda/lib64/libcudart.so",  # a fresh JetPack does not have it on the loader's path
)
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor
PROPERTIES = 1 << 14  # bytes, many more than cudaDeviceProp has in any release; it begins with the GPU's name
NAME_BYTES = 256  # bytes


def load() -> "Runtime | None":
    """The runtime, or None where the system has none."""
    for name in LIBRARIES:
        with suppress(OSError):
            return Runtime(ctypes.CDLL(name))
    return None


class Runtime:
    """As far as the engine takes it; addresses are numbers."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaMalloc.argtypes = [c_void_p, c_size_t]
        library.cudaFree.argtypes = [c_void_p]
        library.cudaMemcpyAsync.argtypes = [c_void_p, c_void_p, c_size_t, c_int, c_void_p]
        library.cudaStreamSynchronize.argtypes = [c_void_p]

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        count = c_int()
        return self._library.cudaGetDeviceCount(byref(count)), count.value

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        """Name, major and minor alone."""
        block, major, minor = ctypes.create_string_buffer(PROPERTIES), c_int(), c_int()
        status = self._library.cudaGetDeviceProperties(block, device)
        status = status or self._library.cudaDeviceGetAttribute(byref(major), MAJOR, device)
        status = status or self._library.cudaDeviceGetAttribute(byref(minor), MINOR, device)
        name = block.raw[:NAME_BYTES].partition(b"\0")[0]
        return status, SimpleNamespace(name=name, major=major.value, minor=minor.value)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        free, total = c_size_t(), c_size_t()
        return self._library.cudaMemGetInfo(byref(free), byref(total)), free.value, total.value

    def cudaStreamCreate(self) -> tuple[int, int]:
        stream = c_void_p()
        return self._library.cudaStreamCreate(byref(stream)), stream.value or 0

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (self._library.cudaStreamSynchronize(stream),)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        address = c_void_p()
        return self._library.cudaMalloc(byref(address), size), address.value or 0

    def cudaFree(self, address: int) -> tuple[int]:
        return (self._library.cudaFree(address),)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        return (self._library.cudaMemcpyAsync(to, source, size, kind, stream),)
