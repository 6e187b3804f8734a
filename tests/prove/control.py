"""The control: a small network with 7-bit codes, equal everywhere, and one with 8-bit codes, which must differ where
pairs of products are added in 16 bits. So it is known that a cap is obeyed, and that a comparison can fail."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.prove import compare, network, probe, processors
from tests.prove.install import Absent
from tests.prove.processors import Processor
from tests.prove.runners import torch_reference
from tests.prove.runners.results import Results

TASKS = list(network.TASKS)


class Control(NamedTuple):
    """One small network in OpenVINO's int8 kernels under one cap."""

    name: str
    processor: str
    expected: str  # "equal" or "different"
    found: str
    codes: int  # that differ
    total: int
    kernels: dict[str, int]

    @property
    def ok(self) -> bool:
        return self.found == self.expected


def prepare(folder: Path, bits: int) -> Path:
    """An OpenVINO artifact's files with quantizers as outputs, frames, and what torch computes, in `folder`."""
    made = probe.openvino(network.convert(folder / "artifact", "openvino", bits) / "model.xml", folder / "ir", TASKS)
    frames = np.stack(network.frames())
    np.save(folder / "frames.npy", frames)
    torch_reference.main(network.deployed(bits), frames, Results(str(folder / "torch"), len(frames)))
    return made


def judge(folder: Path, bits: int, processor: Processor) -> Control:
    """What `processor` makes of a folder of `prepare`; CalledProcessError where its runner breaks off."""
    results = folder / processor.name.replace("/", "_")
    runner = (*processor.command, "-m", "tests.prove.runners.openvino_cpu")
    command = [*runner, str(folder / "ir"), str(folder / "frames.npy"), str(results), "int8"]
    root = Path(__file__).parents[2]
    subprocess.run(
        command, check=True, env=processors.environment(processor.environment), cwd=root, capture_output=True
    )
    got = compare.load(results)
    found = compare.compare(got, compare.load(folder / "torch"), 1)
    same = found.equal() and not found.codes_differing and not found.missing
    return Control(
        f"{bits}-bit codes",
        processor.name,
        "different" if bits == 8 and processors.overflows(processor) else "equal",
        "equal" if same else "different",
        found.codes_differing,
        found.codes_total,
        got.about["kernels"],
    )


def run(work: Path) -> list[Control]:
    """Both networks on this machine, under each cap, and on an emulated processor where there is one."""
    chosen = [processors.native(), *processors.capped()]
    with suppress(Absent):
        chosen.append(processors.avx2())
    found = []
    for bits in (7, 8):
        prepare(work / f"control{bits}", bits)
        found += [judge(work / f"control{bits}", bits, processor) for processor in chosen]
    return found
