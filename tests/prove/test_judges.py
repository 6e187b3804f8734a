"""The small network in runtimes that are no targets, and the forms in which they get it."""

from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("nncf")

from edgemtl.quantization import quantizers
from tests import toy
from tests.prove import __main__ as command
from tests.prove import compare, forms, network, report, runtimes
from tests.prove.compare import Outputs
from tests.prove.forms import Form
from tests.prove.runners import torch_reference
from tests.prove.runners.results import Results
from tests.prove.runtimes import Row
from tests.prove.test_compare import outputs
from tests.prove.test_rows import MANIFEST

pytestmark = pytest.mark.slow

JUDGES = [row.runtime for row in runtimes.judges("small", Path(), fetch=False)]
FORMS: dict[str, Callable[[], Form]] = {
    "float": lambda: forms.rounded(network.deployed(), network.SIZE, probe=True),
    "int8, stored codes": lambda: forms.coded(network.deployed(), network.SIZE, probe=True, stored=True),
    "int8, all on the grid": lambda: forms.coded(network.deployed(), network.SIZE, probe=True, stored=False),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outputs]:
    """A folder with the frames, and what torch computes for them."""
    folder = tmp_path_factory.mktemp("judges")
    frames = np.stack(network.frames())
    for name in ("all", "few"):
        np.save(folder / f"{name}.npy", frames)
    torch_reference.main(network.deployed(), frames, Results(str(folder / "torch"), len(frames)))
    return folder, compare.load(folder / "torch")


@pytest.mark.parametrize("runtime", JUDGES)
def test_maps_are_torchs_but_where_rounding_is_known_to_differ(work: tuple[Path, Outputs], runtime: str) -> None:
    folder, wanted = work
    [row] = [row for row in runtimes.judges("small", folder / "files", fetch=False) if row.runtime == runtime]
    if row.absent:
        pytest.skip(row.absent)
    line = command.judge(row, wanted, folder, 1, set())
    assert line.found is not None, line.reason
    assert line.found.equal() is not bool(row.differs), report.sentence(line, ())
    assert line.found.places == ("ExecuTorch" in runtime) * 6 and not line.found.missing
    assert not line.found.codes_differing
    assert any("int8" in kernel for kernel in line.about["kernels"]) is ("int8" in runtime)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_same_function(name: str) -> None:
    form = FORMS[name]()
    deployed, codes = network.deployed(), [torch.empty(0)]
    for quantizer in quantizers.quantizers(deployed.network):
        if quantizer.role == "activation":
            quantizer.register_forward_hook(lambda _, __, output: codes.append(output))
    for frame in network.frames():
        del codes[:]
        wanted = deployed(toy.batch(frame))
        made = form.program.module()(torch.from_numpy(frame)[None])
        assert form.tasks == list(wanted) and len(form.places) == len(codes) == 6
        for got, want in zip(made, [*wanted.values(), *codes], strict=True):
            assert torch.equal(got, want)


def test_only_layers_between_quantizers_take_codes() -> None:
    assert forms.layers(network.deployed(), network.SIZE) == {"deep.weight"}


def test_nothing_but_layers_stands_between_codes_and_codes() -> None:
    nodes = FORMS["int8, all on the grid"]().program.graph.nodes
    read = [
        quantizers.called(user) for node in nodes if "dequantize_per_tensor" in str(node.target) for user in node.users
    ]
    assert set(read) == {"conv2d", "output"} and read.count("conv2d") == 6
    made = [quantizers.called(node.args[0]) for node in nodes if quantizers.called(node) == "quantize_per_tensor"]
    assert sorted(made) == ["mul", "mul", "relu", "relu", "relu", "relu"]


def test_judges_have_a_section_of_their_own() -> None:
    wanted = outputs()
    lines = [
        report.Line(Row(name, "native", differs=differs, judge=judge), compare.compare(wanted, wanted, 1), wanted.about)
        for name, differs, judge in (("torch", "", False), ("judge", "", True), ("rounds", "rounds twice", True))
    ]
    lines.append(report.Line(Row("missing", "native", judge=True), None, {}, "no network"))
    text = report.page(Path("runs/toy"), "rendered scenes", MANIFEST, lines, [], [])
    before, after = text.split(report.JUDGES)
    assert "| judge |" not in before and "| torch |" in before and "Other arithmetic" not in before
    section, rest = after.split("## Control")
    for part in (
        "| torch | native | 2 |",
        "| judge | native | 2 |",
        "- rounds: rounds twice.",
        "| missing | native | no n",
    ):
        assert part in section and part not in rest
    assert report.replaced(text, f"{report.JUDGES}\n\nnew\n").endswith(f"{report.JUDGES}\n\nnew\n\n## Control{rest}")


def test_a_section_takes_the_place_of_its_older_one_and_nothing_else() -> None:
    section = f"{report.JUDGES}\n\nnew\n"
    page = "# Page\n\nfirst\n\n## Control\n\nlast\n"
    once = report.replaced(page, section)
    assert once == f"# Page\n\nfirst\n\n{section}\n## Control\n\nlast\n"
    assert report.replaced(once.replace("new", "old\n\n| a |"), section) == once
    assert report.replaced("", section) == section
