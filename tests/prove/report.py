"""The page docs/exact.md."""

import platform
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from edgemtl import processor
from edgemtl.artifact import Manifest
from edgemtl.bounds import BOUNDS as BOUNDS_OF
from tests.prove import processors
from tests.prove.compare import Differences
from tests.prove.control import Control
from tests.prove.runtimes import Row

BOUNDS = BOUNDS_OF["int8"]  # promised where a task is not exact
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
    codes = f"{line.found.codes_differing} of {line.found.codes_total} codes differ"
    return f"{start}: {verdict}, {codes}, {_maps(line.found)} ({line.about['seconds']} s)"


def _maps(found: Differences) -> str:
    unequal = {task: count for task, count in found.pixels.items() if count}
    return f"pixels that differ: {unequal or 'none'}"


def page(
    run: Path, source: str, manifest: Manifest, lines: list[Line], controls: list[Control], words: list[str]
) -> str:
    """The whole page in Markdown."""
    ran = [line for line in lines if line.found is not None]
    equal, rest = [line for line in ran if not line.row.differs], [line for line in ran if line.row.differs]
    assert ran[0].found is not None
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES)
    few = min(line.found.frames for line in ran if line.found is not None)
    classes = ", ".join(ran[0].found.classes) or "no task"
    sure, share = len(ran[0].found.certain), 1 - BOUNDS.agreement
    exact, size = ", ".join(manifest.exact) or "none", "x".join(map(str, manifest.size))
    parts = [
        f"""# The same integers everywhere

Written by

```
make prove{f' PROVE="{shlex.join(words)}"' if words else ""}
```

The int8 artifacts of `{run.name}` (recipe {manifest.recipe}, {size}) in every runtime that this machine has, on its
processor, on the same processor with fewer instructions, and on emulated ones, against torch, bit by bit. Frames:
{source}; of them {few} where an emulator computes. Maps that are exact by construction: {exact}.

Machine: {processor.name()} ({processor.describe()}), {platform.system()}, Python {platform.python_version()}.
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
    told = [
        (line.row.runtime, line.row.processor, str(line.about.get("version", "")), _kernels(line.about["kernels"]))
        for line in ran
        if line.about["kernels"]
    ]
    parts.append(_markdown(("runtime", "processor", "version", "kernels"), told))
    missing = [line for line in lines if line.found is None]
    if missing:
        parts.append("## Not run here\n")
        parts.append(
            _markdown(
                ("runtime", "processor", "reason"),
                [
                    (line.row.runtime, line.row.processor, f"{'FAILED: ' if line.failed else ''}{line.reason}")
                    for line in missing
                ],
            )
        )
    return "\n".join(parts)


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
                f"{found.codes_differing} of {found.codes_total}{apart}",
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
