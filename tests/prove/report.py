"""The page docs/exact.md."""

import platform
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from edgemtl.device import processor
from edgemtl.device.bounds import BOUNDS as BOUNDS_OF
from edgemtl.records.artifact import Manifest
from tests.prove import processors
from tests.prove.compare import Differences
from tests.prove.control import Control
from tests.prove.runtimes import Row

BOUNDS = BOUNDS_OF["int8"]  # promised where a task is not exact
JUDGES = "## Further judges, not targets"
PACKAGES = ("torch", "openvino", "onnxruntime", "coremltools")


class Line(NamedTuple):
    """A row with what came of it."""

    row: Row
    found: Differences | None
    about: dict[str, Any]
    reason: str = ""  # why there is nothing
    failed: bool = False  # its runner was started and broke off


def promised(line: Line, exact: tuple[str, ...]) -> bool:
    """Whether the row gives what is promised; one that cannot run here promises nothing."""
    if line.found is None:
        return not line.failed
    if line.row.differs:
        return True
    return (
        line.found.equal(exact)
        and not line.found.missing
        and not line.found.certain_differing
        and all(1 - share >= BOUNDS.agreement for share in line.found.classes.values())
        and all(spread <= BOUNDS.rms for spread in line.found.spread.values())
    )


def sentence(line: Line, exact: tuple[str, ...]) -> str:
    """The row in one line for people who watch."""
    start = f"{line.row.runtime} on {line.row.processor}"
    if line.found is None:
        return f"{start}: {'FAILED' if line.failed else 'not run here'}: {line.reason}"
    equal = "bit-equal maps" if line.found.equal() else "other maps"
    verdict = equal if promised(line, exact) else f"{equal}, NOT AS PROMISED"
    found = line.found
    codes = f"{found.codes_differing} of {found.codes_total} codes differ" if found.places else "codes not compared"
    return f"{start}: {verdict}, {codes}, {_maps(line.found)} ({line.about['seconds']} s)"


def _maps(found: Differences) -> str:
    unequal = {task: count for task, count in found.pixels.items() if count}
    return f"pixels that differ: {unequal or 'none'}"


def page(
    run: Path, source: str, manifest: Manifest, lines: list[Line], controls: list[Control], words: list[str]
) -> str:
    """The whole page in Markdown."""
    further = [lines[0], *(line for line in lines if line.row.judge)]
    lines = [line for line in lines if not line.row.judge]
    ran = [line for line in lines if line.found is not None]
    equal, rest = [line for line in ran if not line.row.differs], [line for line in ran if line.row.differs]
    assert ran[0].found is not None
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES)
    few = min(line.found.frames for line in ran if line.found is not None)
    classes = ", ".join(ran[0].found.classes) or "no task"
    sure, share = len(ran[0].found.certain), 1 - BOUNDS.agreement
    exact, size = ", ".join(manifest.exact) or "none", "x".join(map(str, manifest.size))
    instructions = processor.describe_instructions()
    parts = [
        f"""# The same integers everywhere

Written by

```
make prove{f' PROVE="{shlex.join(words)}"' if words else ""}
```

The int8 artifacts of `{run.name}` (recipe {manifest.recipe}, {size}) in every runtime that this machine has, on its
processor, on the same processor with fewer instructions, and on emulated ones, against torch, bit by bit. Frames:
{source}; of them {few} where an emulator computes. Maps that are exact by construction: {exact}.

Machine: {processor.name()} ({instructions}), {platform.system()}, Python {platform.python_version()}.
{versions}.

- *Codes*: int8 values at the quantizers of the file that differ from torch's, of all. Those that depend on no float
  island ({sure} of {ran[0].found.places} quantizers) must be equal everywhere.
- *Other class*: share of pixels with another class ({classes}). *RMS / std*: the largest RMS difference of any other
  map, as a share of its standard deviation in torch. At most {share:.2%} and {BOUNDS.rms:g} are promised where a task
  is not exact.
- *Pixels*: that are not equal to the last bit, of all maps.
- *SHA-256*: of all maps of {few} of the frames (its first 12 digits).
- *{processors.CAP}*: oneDNN, and so the int8 layers of OpenVINO, obeys it; OpenVINO's own kernels do not. *QEMU*: all
  of a process runs on a processor that QEMU emulates; nothing in it knows of the real one. SwiftShader is a GPU in
  software: that a real GPU computes the same is not shown here.
""",
        _table(equal, manifest.exact),
    ]
    if rest:
        parts.append(
            """## Other arithmetic

Codes of weights and scales are the same, but not every sum or rounding, so that some values take the next code. Nothing
here is promised to be equal.
"""
        )
        parts.append(_table(rest, manifest.exact))
        parts += [f"- {line.row.runtime} on {line.row.processor}: {line.row.differs}.\n" for line in rest]
    if len(further) > 1:
        parts.append(judges(source, further, manifest.exact, words))
    parts.append(
        """## Control

A small network in the same form with 7-bit weight codes, and one with 8-bit codes that are large everywhere, in
OpenVINO's int8 kernels. The second must differ where oneDNN adds pairs of products in 16 bits: so it is known that the
processor is what the row says, and that this comparison can fail.
"""
    )
    header = ("network", "processor", "codes that differ", "expected", "found", "int8 kernels")
    parts.append(
        _markdown(
            header,
            [
                (c.name, c.processor, f"{c.codes} of {c.total}", c.expected, c.found, _kernels(c.kernels))
                for c in controls
            ],
        )
    )
    parts.append("## What ran\n\nLayers and quantizers by the kernel that computed them, as the runtime tells.\n")
    parts.append(_told(ran))
    missing = [line for line in lines if line.found is None]
    if missing:
        parts += ["## Not run here\n", _missing(missing)]
    return "\n".join(parts)


def judges(source: str, lines: list[Line], exact: tuple[str, ...], words: list[str]) -> str:
    """The section on runtimes that are no targets; the first line is torch's."""
    first, *rest = lines
    assert first.found is not None
    ran = [line for line in rest if line.found is not None]
    asked = f' PROVE="{shlex.join(words)}"' if words else ""
    parts = [
        f"""{JUDGES}

The same network in runtimes that edgemtl writes no files for, by

```
make prove{asked}
```

with torch {metadata.version("torch")} on {processor.name()} ({processor.describe_instructions()}). Frames: {source}.

- *float kernels*: a quantizer is multiplication, rounding, clamping and multiplication in float32; weights are float32.
  All of it is arithmetic that float32 has no choice in, so any runtime must give torch's bits.
- *int8 kernels*: quantizers are the runtime's own quantize and dequantize, with the ledger's codes and scales, and a
  layer whose result is quantized at once may run on codes alone; the second table says how many did. Elsewhere values
  stay float32: left to itself, LiteRT's converter resizes, adds and requantizes codes, which is another network.
- *Codes*: ExecuTorch's quantizers are outputs as well. With such outputs litert-torch breaks off or exchanges their
  axes, so that LiteRT's are not compared.
""",
        _table([first, *ran], exact),
    ]
    parts += [f"- {line.row.runtime}: {line.row.differs}.\n" for line in ran if line.row.differs]
    parts.append(_told(ran))
    if missing := [line for line in rest if line.found is None]:
        parts += ["Not run here:\n", _missing(missing)]
    return "\n".join(parts)


def replaced(page: str, section: str) -> str:
    """The page with this section of judges in place of the one it has, else before the control, else at its end."""
    start = page.find(JUDGES)
    if start < 0:
        start = end = page.find("## Control") if "## Control" in page else len(page)
    else:
        following = page.find("\n## ", start)
        end = len(page) if following < 0 else following + 1
    return page[:start] + section + ("\n" if end < len(page) else "") + page[end:]


def _told(ran: list[Line]) -> str:
    told = [
        (line.row.runtime, line.row.processor, str(line.about.get("version", "")), _kernels(line.about["kernels"]))
        for line in ran
        if line.about["kernels"]
    ]
    return _markdown(("runtime", "processor", "version", "kernels"), told)


def _missing(missing: list[Line]) -> str:
    reasons = [f"{'FAILED: ' if line.failed else ''}{line.reason}" for line in missing]
    rows = [(line.row.runtime, line.row.processor, reason) for line, reason in zip(missing, reasons)]
    return _markdown(("runtime", "processor", "reason"), rows)


def _table(lines: list[Line], exact: tuple[str, ...]) -> str:
    header = ("runtime", "processor", "frames", "codes", "other class", "RMS / std", "pixels", "SHA-256", "bit-equal")
    rows = []
    for line in lines:
        found = line.found
        assert found is not None
        worst = max(found.spread.items(), key=lambda pair: pair[1], default=None)
        verdict = ("yes" if found.equal() else "no") + ("" if promised(line, exact) else ", NOT AS PROMISED")
        apart = "" if line.about.get("probed_same", True) else " (of a graph with other maps)"
        rows.append(
            (
                line.row.runtime,
                line.row.processor,
                str(found.frames),
                f"{found.codes_differing} of {found.codes_total}{apart}" if found.places else "not compared",
                f"{max(found.classes.values(), default=0):.4%}",
                f"{worst[1]:.1e} ({worst[0]})" if worst and worst[1] else "0",
                f"{sum(found.pixels.values())} of {found.pixels_total * len(found.pixels)}",
                found.sha256[:12],
                verdict,
            )
        )
    return _markdown(header, rows)


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(re.sub('[|]', '/', cell) for cell in line)} |\n" for line in lines)


def _kernels(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in sorted(counts.items()))
