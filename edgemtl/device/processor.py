"""This machine's processor: its name, and the instructions that int8 arithmetic depends on. Standard library only."""

import os
import platform
import subprocess
import sys
from pathlib import Path

INFO = Path("/proc/cpuinfo")
BOARD_FILE = Path("/proc/device-tree/model")
# As Linux calls them, as we do.
X86 = {
    "avx2": "AVX2", "avx512bw": "AVX512BW", "avx_vnni": "AVX_VNNI", "avx512_vnni": "AVX512_VNNI", "amx_int8": "AMX_INT8"
}  # fmt: skip
ARM = {"asimddp": "ASIMDDP", "i8mm": "I8MM"}  # dot products and matrix products of 8 bits, added in 32
# As macOS calls them.
MAC = {
    "AVX2": "AVX2", "AVX512BW": "AVX512BW", "AVX512VNNI": "AVX512_VNNI",
    "hw.optional.arm.FEAT_DotProd: 1": "ASIMDDP", "hw.optional.arm.FEAT_I8MM: 1": "I8MM",
}  # fmt: skip
VNNI_FLAGS = {"AVX_VNNI", "AVX512_VNNI", "AMX_INT8"}  # each adds products of 8 bits in 32
# What oneDNN, and so OpenVINO, is kept from using by this variable (the second is its older name).
CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WIDE = {"AVX2", "AVX512BW"}
ALLOWED = {
    "SSE41": set(), "AVX": set(), "AVX2": {"AVX2"}, "AVX2_VNNI": {"AVX2", "AVX_VNNI"},
    "AVX2_VNNI_2": {"AVX2", "AVX_VNNI"}, "AVX512_CORE": _WIDE, "AVX512_CORE_VNNI": _WIDE | {"AVX512_VNNI"},
    "AVX512_CORE_BF16": _WIDE | {"AVX512_VNNI"}, "AVX512_CORE_FP16": _WIDE | {"AVX512_VNNI"},
}  # fmt: skip


def name() -> str:
    """The name of this machine's processor, or of its board, as people know it."""
    if sys.platform == "darwin":
        return _sysctl("-n", "machdep.cpu.brand_string").strip() or platform.machine()
    if BOARD_FILE.exists():  # a Jetson's or another board's name
        return BOARD_FILE.read_text().strip("\0\n")
    return _line("model name") or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...] | None:
    """Those of X86 or ARM that it has and that no variable keeps oneDNN from; None where this cannot be known."""
    names: list[str]
    if sys.platform == "darwin":
        listing = _sysctl("hw.optional", "machdep.cpu.leaf7_features")
        if not listing:
            return None
        lines = {line.strip() for line in listing.splitlines()}
        words = {word for line in lines if line.startswith("machdep") for word in line.split()}
        names = [ours for theirs, ours in MAC.items() if theirs in lines | words]
    else:
        listed = _line("flags") if x86() else _line("Features") if arm() else ""
        if not listed:
            return None
        flags = X86 if x86() else ARM
        names = [flags[word] for word in flags if word in listed.split()]
    limit = cap()
    return tuple(word for word in names if limit is None or word in ALLOWED[limit])


def cap() -> str | None:
    """The instruction set that oneDNN's variable limits it to, if it is one below the most."""
    text = next((os.environ[variable] for variable in CAPS if os.environ.get(variable)), "").upper()
    return text if x86() and text in ALLOWED else None


def overflows() -> bool | None:
    """Whether int8 kernels made for this processor add pairs of products in 16 bits; None where it cannot be known.

    x86 before VNNI does: 255 * 64 * 2 fits into 16 bits, 255 * 127 * 2 does not, and the sum stops at 32767.
    """
    if not x86():
        return False
    names = instructions()
    return None if names is None else not VNNI_FLAGS & set(names)


def describe_instructions() -> str:
    """The instructions in words, such as "AVX2 without VNNI"."""
    names = instructions()
    if names is None:
        return "unknown instructions"
    words = ", ".join(names) or "none of int8's instructions"
    if x86() and not VNNI_FLAGS & set(names):
        words += " without VNNI"
    limit = cap()
    return f"{words}, limited to {limit} by the environment" if limit else words


def x86() -> bool:
    """Whether programs here are made for x86-64."""
    return platform.machine().lower() in ("x86_64", "amd64")


def arm() -> bool:
    """Whether programs here are made for AArch64."""
    return platform.machine().lower() in ("aarch64", "arm64")


def _line(key: str) -> str:
    """What Linux says under `key` of the first processor; empty where it says nothing."""
    for line in INFO.read_text(errors="replace").splitlines() if INFO.exists() else ():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def _sysctl(*words: str) -> str:
    try:
        return subprocess.run(["sysctl", *words], capture_output=True, text=True).stdout
    except OSError:
        return ""
