"""Pictures of numbers, SVG, in one style: lines without a frame, few numbers; the same file for the same numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.ground.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 8.5, "axes.titlesize": 8.5, "axes.titlelocation": "left", "axes.labelsize": 8,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7, "legend.frameon": False,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.spines.bottom": False,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.linewidth": 0.8,
    "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
    "lines.linewidth": 1.4, "lines.markersize": 4,
}  # fmt: skip


@contextmanager
def figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    ink: str = "black",
    grid: str = "0.88",
    salt: str = "edgemtl",
) -> Iterator[tuple["Figure", np.ndarray]]:
    """A figure of so many inches and its axes (rows, columns). Draw and save inside the block, where the style holds.

    Names inside an SVG depend on `salt`: those of figures on one page must differ.
    """
    import matplotlib
    from matplotlib.figure import Figure

    colours: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), ink
    )
    with matplotlib.rc_context({**STYLE, **colours, "grid.color": grid, "svg.hashsalt": salt}):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing, drawing.subplots(rows, columns, squeeze=False)


def svg(figure: "Figure") -> str:
    """The figure as an <svg> element, without a background."""
    stream = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def save(figure: "Figure", file: Path) -> None:
    """Writes the figure as an SVG file."""
    with replacing(file) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
