"""Processors to run on: this one, this one with fewer instructions, and others under user-mode emulation.

A cap is a variable that oneDNN reads, ONEDNN_MAX_CPU_ISA: OpenVINO's int8 kernels and torch's obey it. OpenVINO's own
kernels, such as Interpolate, do not in a release (their variable, OV_CPU_MAX_ISA, is in debug builds up to 2026.4), and
ONNX Runtime knows no such switch. So a cap tells of int8 layers alone; all of a processor without AVX-512 is shown by
QEMU, which runs the same Python and the same wheels: its translator has AVX2, and no AVX-512.
"""

import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from tests.prove import install
from tests.prove.install import Absent

CPUINFO = Path("/proc/cpuinfo")
CAP = "ONEDNN_MAX_CPU_ISA"
# oneDNN's names, with flags of the kernel's of which a CPU has at least one where the cap is below what it has.
CAPS = {
    "AVX512_CORE_VNNI": ("avx512_vnni",),
    "AVX512_CORE": ("avx512bw",),
    "AVX2_VNNI": ("avx_vnni",),
    "AVX2": ("avx512bw", "avx_vnni"),
}
OVERFLOWS = ("AVX512_CORE", "AVX2")  # caps under which pairs of 8-bit products are added in 16 bits
MODELS = {"x86_64": "Haswell-noTSX", "aarch64": "cortex-a76"}  # what QEMU is told to be


class Processor(NamedTuple):
    """How a Python script is started on it."""

    name: str
    command: tuple[str, ...]  # the interpreter, with what stands before it
    environment: dict[str, str]
    kind: str = "native"  # or "capped", "emulated"


def flags() -> set[str]:
    """The CPU's features as the kernel tells them; empty where it does not."""
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return set(found[1].split()) if found else set()


def cpu() -> str:
    """This machine's CPU, with what matters to int8."""
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    has = flags()
    names = ("avx2", "avx_vnni", "avx512bw", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    return f"{found[1] if found else platform.machine()} ({', '.join(name for name in names if name in has)})"


def native() -> Processor:
    """This machine as it is."""
    return Processor("native", (sys.executable,), {})


def capped() -> list[Processor]:
    """This machine with oneDNN kept from instructions that it has; none on other architectures."""
    has = flags()
    return [
        Processor(f"native, {CAP}={cap}", (sys.executable,), {CAP: cap}, "capped")
        for cap, needed in CAPS.items()
        if platform.machine() == "x86_64" and has & set(needed)
    ]


def avx2() -> Processor:
    """An x86-64 processor with AVX2 and neither AVX-512 nor VNNI, by QEMU; Absent with the reason."""
    if platform.machine() != "x86_64":
        raise Absent("the Python here is for another architecture than x86-64")
    model = MODELS["x86_64"]
    command = (_qemu("x86_64"), "-cpu", model, sys.executable)
    return Processor(f"{model} (AVX2 without VNNI), QEMU", command, {}, "emulated")


def aarch64() -> Processor:
    """An AArch64 processor, by QEMU, in a Debian root with the runtimes' wheels; Absent with the reason."""
    model, qemu = MODELS["aarch64"], _qemu("aarch64")
    root, site = install.arm64_root(), install.arm64_packages()
    command = (qemu, "-cpu", model, "-L", str(root), str(root / "usr/bin/python3.11"))
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return Processor(f"{model} (AArch64), QEMU", command, environment, "emulated")


def _qemu(machine: str) -> str:
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        if found := shutil.which(name):
            return found
    raise Absent(f"qemu-{machine} is not installed (Debian: apt install qemu-user-static)")


def environment(more: dict[str, str]) -> dict[str, str]:
    """The variables of a runner: this process' own, without caps that were set around it; one thread; and `more`."""
    mine = {key: value for key, value in os.environ.items() if key not in (CAP, "DNNL_MAX_CPU_ISA", "PYTHONPATH")}
    return mine | {"OMP_NUM_THREADS": "1", "EDGEMTL_THREADS": "1"} | more
