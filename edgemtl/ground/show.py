"""Progress bars with an ETA and tables, for people who watch."""

from importlib.util import find_spec
from typing import Any, Callable, Iterable, Sequence, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgemtl.ground.files import dumps

out = Console()
# A notebook shows bars by ipywidgets alone; without them it is treated as any other place that is no terminal.
err = Console(stderr=True, force_jupyter=None if find_spec("ipywidgets") else False)
WIDEST = 1000  # columns of what is no terminal
Shown = TypeVar("Shown")


def note(text: str) -> None:
    """One line on standard error, for people."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def line(text: str) -> None:
    """One line on standard output, as it is."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def result(found: Shown, as_json: bool, table: Callable[[Shown], None]) -> None:
    """Prints a result as JSON, or as the table that `table` prints of it."""
    print(dumps(found, indent=1)) if as_json else table(found)


def progress() -> Progress:
    """A progress display on standard error: description, bar, count, elapsed, remaining, and a free `status` field."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[status]}"), console=err,
    )  # fmt: skip


def track(items: Sequence[Any] | Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """Yields the items under a progress bar."""
    with progress() as bar:
        task = bar.add_task(description, total=len(items) if isinstance(items, Sequence) else total, status="")
        for item in items:
            yield item
            bar.advance(task)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> None:
    """Prints a table on standard output, the first `left` columns left, the rest right; numbers get four digits.

    In a terminal it is folded to fit; elsewhere nothing is.
    """
    out.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)  # a Table's own title wraps early
    grid = Table()
    for index, name in enumerate(header):
        grid.add_column(name, justify="left" if index < left else "right")
    for row in rows:
        # As texts: in a string, rich would take edgemtl[onnx]'s bracket for a style and print nothing of it.
        grid.add_row(*(Text(f"{cell:.4g}" if isinstance(cell, float) else str(cell)) for cell in row))
    (out if out.is_terminal else Console(width=WIDEST)).print(grid)
