"""Jetson boards and what each JetPack brings them, as data: TensorRT's version decides opset, file and flags.

No vendor's document confirms the entries with `checked=False`.
"""

import re
from fnmatch import fnmatch
from typing import NamedTuple

ONNX, TYPED = "model.onnx", "model.fp16.onnx"
DLA_NOTE = (
    "GridSample, LayerNormalization and int8 by Q/DQ do not run on DLA, and what does not falls back to the GPU without"
    " a word: do not use it for these networks"
)


class Board(NamedTuple):
    title: str
    sm: str  # compute capability
    dla_cores: str


class JetPack(NamedTuple):
    """A release of NVIDIA's software for Jetson."""

    version: str
    tensorrt: str
    linux: tuple[str, ...]  # how the versions of its Jetson Linux begin, of which no document was looked at but 39.2's
    boards: tuple[str, ...]
    python: str  # of its Ubuntu, for which TensorRT's bindings are made
    checked: bool
    source: str
    note: str = ""


BOARDS = {
    "orin-nano": Board("Jetson Orin Nano", "8.7", "0"),
    "orin-nx": Board("Jetson Orin NX", "8.7", "1 (8 GB) or 2 (16 GB)"),
    "agx-orin": Board("Jetson AGX Orin", "8.7", "2"),
    "thor": Board("Jetson Thor", "11.0", "0"),
}
ORIN = ("orin-nano", "orin-nx", "agx-orin")
UNKNOWN = "Which TensorRT it has was not checked."
JETPACKS = (
    JetPack("5.1", "8.5.2", ("35.",), ORIN, "3.8", True, "NVIDIA-AI-IOT/cuDLA-samples#19",
            "It has no LayerNormalization and no cubic Resize, and its Python is too old for edgemtl."),
    JetPack("6.0", "8.6.2", ("36.2", "36.3"), ORIN, "3.10", False, "none found", UNKNOWN),
    JetPack("6.1", "10.3.0", ("36.4.0",), ORIN, "3.10", True,
            "pytorch/TensorRT#3453, docs.pytorch.org/TensorRT, Jetson"),
    JetPack("6.2", "10.3.0", ("36.4.", "36.5"), ORIN, "3.10", True, "docs.pytorch.org/TensorRT, Jetson"),
    JetPack("7.0", "10.13", ("38.2",), ("thor",), "3.12", False, "none found", UNKNOWN),
    JetPack("7.1", "10.13", ("38.4",), ("thor",), "3.12", True, "roboflow/inference#1935"),
    JetPack("7.2", "10.16", ("39.2",), (*ORIN, "thor"), "3.12", True,
            "OE4T/meta-tegra#2224, blakeblackshear/frigate#23582",
            "It has no libnvdla_compiler.so, without which the TensorRT of some containers (10.11 in 26.02-py3-igpu)"
            " does not load, and nothing is built for DLA: take the board's own TensorRT."),
    JetPack("7.2.2", "11.4.1", (), ("agx-orin", "thor"), "3.12", True,
            "docs.nvidia.com/deeplearning/tensorrt/11.4.1, Migrating from 10.x to 11.x on Jetson",
            "Strongly typed only: precision comes from the file."),
)  # fmt: skip
# What TensorRT's bindings load, by how the name begins, and what to do where it is missing.
ABSENT = {
    "libnvdla_compiler": "JetPack 7.2 has none, which some containers' TensorRT asks for: take the board's own",
    "lib": "sudo apt install nvidia-jetpack brings it",
}
# What a converted file must pass, one for each way to say the precision. What OLD thinks of it is told and no failure:
# it has no LayerNormalization.
RELEASES = ("8.6", "10.3", "11.4")
OLD = "8.5"
SCRIPTED = {
    "8.5.*": "8.5.2",
    "8.6.*": "8.6.2",
    "10.*": "10.3.0",
    "11.*": "11.4.1",
}  # versions that build.sh tells apart


def jetpack(linux: str) -> JetPack | None:
    """The one with this version of Jetson Linux; None for one that is not listed."""
    return next((j for j in JETPACKS for start in j.linux if linux.startswith(start)), None)


def unloadable(error: Exception) -> str:
    """Why TensorRT's bindings do not load, in a line: the library that is missing, and where it comes from."""
    text = " ".join(str(error).split())
    if name := re.search(r"lib[\w+-]+\.so[\w.]*", text):
        advice = next(line for start, line in ABSENT.items() if name[0].startswith(start))
        return f"{name[0]}, which TensorRT loads, is missing ({advice})"
    return f"TensorRT is installed and does not load: {text}"


def major(tensorrt: str) -> int:
    return int(tensorrt.partition(".")[0])


def file(precision: str, tensorrt: str, half: bool = True) -> str:
    """The file of an artifact that a TensorRT of this version builds from; with `half` it computes in float16.

    From TensorRT 10 on a network can be strongly typed, from 11 on it must be: then the file itself says float16.
    """
    if precision == "fp32" or not half or (precision == "int8" and major(tensorrt) < 10):
        return ONNX
    return TYPED


def trtexec(precision: str, tensorrt: str, float32_layers: list[str], half: bool = True) -> str:
    """The flags with which trtexec of this version builds the engine model.plan."""
    chosen = file(precision, tensorrt, half)
    flags = [f"--onnx={chosen}", "--saveEngine=model.plan", "--timingCacheFile=timing.cache"]
    half = half and precision != "fp32"
    if not half:
        flags.append("--noTF32")
    if major(tensorrt) < 10:
        flags += ["--fp16"] if half else []
        flags += ["--int8"] if precision == "int8" else []
        if half and float32_layers:
            listed = ",".join(f"{layer}:fp32" for layer in float32_layers)
            flags += ["--precisionConstraints=obey", f"'--layerPrecisions={listed}'"]
    elif major(tensorrt) < 11:
        flags.append("--stronglyTyped")
    flags.append("--buildOnly" if tensorrt.startswith("8.5") else "--skipInference")
    return " ".join(["trtexec", *flags, '--memPoolSize="workspace:$megabytes"'])


def script(precision: str, float32_layers: list[str], half: bool = True) -> str:
    """build.sh: builds the engine on a Jetson, with the flags of the TensorRT it finds there."""
    cases = []
    for pattern, release in SCRIPTED.items():
        for j in (j for j in JETPACKS if fnmatch(j.tensorrt, pattern)):
            there = [BOARDS[name] for name in j.boards]
            boards = ", ".join(f"{board.title} (SM {board.sm}, DLA cores: {board.dla_cores})" for board in there)
            unchecked = "" if j.checked else " (not checked)"
            cases.append(f"# JetPack {j.version}, TensorRT {j.tensorrt}{unchecked}: {boards}. {j.note}".strip())
        cases.append(f"{pattern}) {trtexec(precision, release, float32_layers, half)} ;;")
    listed = "\n".join(cases)
    return f"""#!/bin/sh
# Builds the TensorRT engine model.plan on the Jetson that will run it: an engine is of one GPU and one TensorRT.
# Before: sudo nvpmodel -m 0 && sudo jetson_clocks
# After:  trtexec --loadEngine=model.plan --useCudaGraph --noDataTransfers --useSpinWait --warmUp=500 --duration=10
# edgemtl itself needs none of this: it builds and keeps an engine of its own when it first opens this folder.
# {DLA_NOTE}.
set -e
cd "$(dirname "$0")"
PATH="$PATH:/usr/src/tensorrt/bin"
version=${{1:-$(dpkg-query -W -f '${{Version}}' libnvinfer-bin)}}
megabytes=$(awk '/MemAvailable/ {{ print int($2 / 2048) }}' /proc/meminfo)
case $version in
{listed}
*) echo "build.sh knows TensorRT 8.5, 8.6, 10 and 11, not $version" >&2; exit 2 ;;
esac
"""
