"""CUDA's runtime by ctypes, against a library in C whose functions have CUDA's signatures and the computer's memory."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgemtl.targets.tensorrt import cuda

LIBRARY = r"""
#include <stdlib.h>
#include <string.h>
typedef struct stream *cudaStream_t;
struct stream { int waited; };
static struct stream only;
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDeviceProperties(void *p, int device) { if (device) return 101; strcpy(p, "Orin"); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device)
{ *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1; return device ? 101 : 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = (size_t)5 << 32; *total = (size_t)6 << 32; return 0; }
int cudaStreamCreate(cudaStream_t *stream) { *stream = &only; return 0; }
int cudaStreamSynchronize(cudaStream_t stream) { return stream == &only ? 0 : 400; }
int cudaMalloc(void **p, size_t size) { if (size > (size_t)1 << 40) return 2; *p = malloc(size); return 0; }
int cudaFree(void *p) { free(p); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, cudaStream_t stream)
{ if (stream != &only) return 400; if (kind != 1 && kind != 2) return 21; memcpy(to, from, size); return 0; }
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> cuda.Runtime:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "cudart.c").write_text(LIBRARY)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcudart.so"), str(folder / "cudart.c")]
    subprocess.run(command, check=True)
    return cuda.Runtime(ctypes.CDLL(str(folder / "libcudart.so")))


def test_the_gpu_is_described(runtime: cuda.Runtime) -> None:
    assert runtime.cudaGetDeviceCount() == (0, 1)
    status, about = runtime.cudaGetDeviceProperties(0)
    assert (status, about.name, about.major, about.minor) == (0, b"Orin", 8, 7)
    assert runtime.cudaGetDeviceProperties(1)[0] == 101
    assert runtime.cudaMemGetInfo() == (0, 5 << 32, 6 << 32)


def test_values_go_there_and_back_whole(runtime: cuda.Runtime) -> None:
    kind = runtime.cudaMemcpyKind
    given = np.random.default_rng(0).integers(0, 256, (7, 5), np.uint8)
    taken = np.zeros_like(given)
    _, stream = runtime.cudaStreamCreate()
    status, address = runtime.cudaMalloc(given.nbytes)
    assert status == 0 and address > 1 << 32  # more than an int holds, as addresses are
    to = runtime.cudaMemcpyAsync(address, given.ctypes.data, given.nbytes, kind.cudaMemcpyHostToDevice, stream)
    back = runtime.cudaMemcpyAsync(taken.ctypes.data, address, given.nbytes, kind.cudaMemcpyDeviceToHost, stream)
    assert (to, back, runtime.cudaStreamSynchronize(stream), runtime.cudaFree(address)) == ((0,),) * 4
    np.testing.assert_array_equal(taken, given)


def test_failures_are_statuses(runtime: cuda.Runtime) -> None:
    assert runtime.cudaMalloc(1 << 50)[0] == 2
    assert runtime.cudaStreamSynchronize(0) == (400,)


def test_a_system_without_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "LIBRARIES", ("libno-such-cudart.so", str(tmp_path / "libcudart.so")))
    assert cuda.load() is None
