"""OpenVINO's int8 kernels with each instruction set that this machine has: what is green here says something of others.

7-bit weight codes must give torch's codes and maps to the bit everywhere. The control, 8-bit codes that are large,
must not where oneDNN adds pairs of products in 16 bits: else a cap was not obeyed, or the comparison cannot fail.
"""

import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from tests.prove import control, processors
from tests.prove.install import Absent
from tests.prove.processors import Processor

pytestmark = pytest.mark.slow

HERE = [processors.native(), *processors.capped()]


@pytest.fixture(scope="module", params=[7, 8], ids=["7-bit", "8-bit"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp(f"bits{request.param}")
    control.prepare(folder, request.param)
    return folder, request.param


def check(prepared: tuple[Path, int], processor: Processor) -> control.Control:
    folder, bits = prepared
    found = control.judge(folder, bits, processor)
    assert any("_I8" in kernel for kernel in found.kernels), f"no int8 kernel ran: {found.kernels}"
    assert found.ok, f"{found.codes} of {found.total} codes differ: {found}"
    return found


@pytest.mark.parametrize("processor", HERE, ids=lambda processor: processor.name)
def test_codes_and_maps_are_torchs_and_large_codes_overflow(prepared: tuple[Path, int], processor: Processor) -> None:
    found = check(prepared, processor)
    if "AVX2" in processor.name:  # the layers themselves obey the cap
        assert not any("avx512" in kernel for kernel in found.kernels if "conv" in kernel or "_I8" in kernel)


def test_the_same_on_an_emulated_processor_with_avx2_alone(prepared: tuple[Path, int]) -> None:
    try:
        processor = processors.avx2()
    except Absent as reason:
        pytest.skip(str(reason))
    found = check(prepared, processor)
    assert not any("avx512" in kernel for kernel in found.kernels)


@pytest.mark.skipif(len(HERE) == 1, reason="this machine has no instruction set above AVX2 to be kept from")
def test_some_cap_makes_8_bit_codes_overflow() -> None:
    assert any(processors.overflows(processor) for processor in HERE)


# Float kernels too: they are what a CPU takes whose int8 kernels are wrong, and those of every ARM.
@pytest.mark.parametrize("device", ["CPU", "CPU:float"])
@pytest.mark.parametrize("processor", HERE, ids=lambda processor: processor.name)
def test_the_bundled_model_passes_its_own_test(processor: Processor, device: str) -> None:
    command = [*processor.command, "-m", "edgemtl", "selftest", "nyud_edge/openvino", "--device", device]
    environment = os.environ | processor.environment
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "WRONG" not in ended.stdout, ended.stdout + ended.stderr
    assert ended.stdout.count("equal") == 4
