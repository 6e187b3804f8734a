"""Processors to run on: this one, this one with fewer instructions, and others under user-mode emulation.

A cap is a variable that oneDNN reads, ONEDNN_MAX_CPU_ISA: OpenVINO's int8 kernels and torch's obey it. OpenVINO's own
kernels, such as Interpolate, do not in a release (their variable, OV_CPU_MAX_ISA, is in debug builds up to 2026.4), and
ONNX Runtime knows no such switch. So a cap tells of int8 layers alone; all of a processor without AVX-512 is shown by
QEMU, which runs the same Python and the same wheels: its translator has AVX2, and no AVX-512.
"""

import os
import shutil
import sys
from typing import NamedTuple

from edgemtl.device import processor
from tests.prove import install
from tests.prove.install import Absent

CAP = processor.CAPS[0]
# oneDNN's names. A CPU that has one of these instructions can be kept to the set of that name.
CAPS = {
    "AVX512_CORE_VNNI": {"AVX512_VNNI"},
    "AVX512_CORE": {"AVX512BW"},
    "AVX2_VNNI": {"AVX_VNNI"},
    "AVX2": {"AVX512BW", "AVX_VNNI"},
}
MODELS = {"x86_64": "Haswell-noTSX", "aarch64": "cortex-a76"}  # what QEMU is told to be


class Processor(NamedTuple):
    """How a Python script is started on it."""

    name: str
    command: tuple[str, ...]  # the interpreter, with what stands before it
    environment: dict[str, str]
    kind: str = "native"  # or "capped", "emulated"


def native() -> Processor:
    """This machine as it is."""
    return Processor("native", (sys.executable,), {})


def capped() -> list[Processor]:
    """This machine with oneDNN kept from instructions that it has; none on other architectures."""
    has = set(processor.instructions() or ())
    return [
        Processor(f"native, {CAP}={cap}", (sys.executable,), {CAP: cap}, "capped")
        for cap, needed in CAPS.items()
        if processor.x86() and has & needed
    ]


def avx2() -> Processor:
    """An x86-64 processor with AVX2 and neither AVX-512 nor VNNI, by QEMU; Absent with the reason."""
    if not processor.x86():
        raise Absent("the Python here is for another architecture than x86-64")
    model = MODELS["x86_64"]
    command = (qemu("x86_64"), "-cpu", model, sys.executable)
    return Processor(f"{model} (AVX2 without VNNI), QEMU", command, {}, "emulated")


def aarch64() -> Processor:
    """An AArch64 processor, by QEMU, in a Debian root with the runtimes' wheels; Absent with the reason."""
    model, emulator = MODELS["aarch64"], qemu("aarch64")
    root, site = install.arm64_root(), install.arm64_packages()
    command = (emulator, "-cpu", model, "-L", str(root), str(root / "usr/bin/python3.11"))
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return Processor(f"{model} (AArch64), QEMU", command, environment, "emulated")


def qemu(machine: str) -> str:
    """QEMU's program for another machine's; Absent where it is not installed."""
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        if found := shutil.which(name):
            return found
    raise Absent(f"qemu-{machine} is not installed (Debian: apt install qemu-user-static)")


def overflows(chosen: Processor) -> bool:
    """Whether oneDNN on it adds pairs of products of 8 bits in 16."""
    if chosen.kind == "capped":
        return not processor.VNNI_FLAGS & processor.ALLOWED[chosen.environment[CAP]]
    return chosen.kind == "emulated" or bool(processor.overflows())


def environment(more: dict[str, str]) -> dict[str, str]:
    """The variables of a runner: this process' own, without caps that were set around it; one thread; and `more`."""
    mine = {key: value for key, value in os.environ.items() if key not in (*processor.CAPS, "PYTHONPATH")}
    return mine | {"OMP_NUM_THREADS": "1", "EDGEMTL_THREADS": "1"} | more
