"""The benchmark's table and pictures, made of what was measured."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.ground import plots
from edgemtl.ground import show as terminal
from edgemtl.ground.files import replacing, write_json

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
NOISY = 0.1  # of a median: an interval wider than that does not tell
HEADER = (
    "", "median ms", "95 % interval", "p95 ms", "processor ms", "frames/s, end to end",
    "times the authors' form in torch", "GMACs", "GMAC/s", "of the ceiling", "MiB it adds", "MB", "from torch",
)  # fmt: skip
COLOURS = {"authors' form": "0.6", "ours": "tab:blue"}
MARKS = {"fp32": "o", "bf16": "s", "int8": "^"}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def interval(rounds: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the median over rounds, by drawing rounds again 2000 times."""
    random = np.random.default_rng(0)
    drawn = np.median(random.choice(rounds, (2000, len(rounds))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


class Line:
    """A row's figures."""

    def __init__(self, found: dict[str, Any], row: dict[str, Any]) -> None:
        self.form, self.runtime, self.precision = row["form"], row["runtime"], row["precision"]
        every = 1000 * np.concatenate(row["model"])
        rounds = 1000 * np.array([statistics.median(got) for got in row["model"]])
        self.median, self.p95 = float(np.median(rounds)), float(np.percentile(every, 95))
        self.low, self.high = interval(rounds)
        self.processor = 1000 * statistics.median(row["processor"])
        self.is_noisy = self.high - self.low > NOISY * self.median
        whole = np.array([statistics.median(got) for got in row["end_to_end"]])
        self.rate = float(1 / np.median(whole))
        self.share_of_model = float(np.median(rounds / 1000 / whole))  # of the model's own rate, end to end
        first = 1000 * np.array([statistics.median(got) for got in found["rows"][0]["model"]])
        self.times = float(np.median(first / rounds))
        self.times_low, self.times_high = interval(first / rounds)
        kind = "authors' form" if self.form != "ours" else "int8" if self.precision == "int8" else "float"
        macs, elements = found["work"][kind]
        self.gmacs, self.speed = macs / 1e9, macs / 1e6 / self.median
        runtime = "torch" if self.runtime.startswith("torch") else self.runtime
        self.ceiling = statistics.median(found["ceilings"][f"{runtime} {self.precision}"])
        self.intensity = macs / (elements * BYTES[self.precision])
        self.mib, self.megabytes = row["mib"] - row["before_mib"], row["bytes"] / 1e6
        self.apart, self.other = row["apart"], row["other_classes"]

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}, {self.form}"

    def cells(self) -> list[str]:
        return [
            self.name, f"{self.median:.1f}", f"{self.low:.1f}-{self.high:.1f}{' (noisy)' if self.is_noisy else ''}",
            f"{self.p95:.1f}", f"{self.processor:.1f}", f"{self.rate:.1f}",
            f"{self.times:.2f} ({self.times_low:.2f}-{self.times_high:.2f})",
            f"{self.gmacs:.2f}", f"{self.speed:.0f}", f"{100 * self.speed / self.ceiling:.0f} %",
            f"{self.mib:.0f}", f"{self.megabytes:.1f}", self.difference(),
        ]  # fmt: skip

    def difference(self) -> str:
        if not self.apart and not self.other:
            return "same bits"
        return f"{self.apart:.0e}, {100 * self.other:.2g} %"


def lines(found: dict[str, Any]) -> list[Line]:
    """Every row of a case, torch eager first."""
    return [Line(found, row) for row in found["rows"]]


def title(found: dict[str, Any]) -> str:
    machine = found["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{machine['processor']} ({machine['instructions']}), {threads}, {machine['clock']}"


def ceilings(found: dict[str, Any]) -> str:
    """The machine's own limits in the same run, in a line."""
    parts = [
        f"{name} {statistics.median(values):.0f} GMAC/s" for name, values in found["ceilings"].items() if name != "copy"
    ]
    return f"Ceilings in the same run: {', '.join(parts)}; copy {statistics.median(found['ceilings']['copy']):.0f} GB/s"


def verdict(found: dict[str, Any], made: list[Line]) -> str:
    """Whether the machine was quiet enough, in a line."""
    noisy = [line.name for line in made if line.is_noisy]
    rounds = len(found["rows"][0]["model"])
    if noisy:
        return (
            f"{rounds} rounds. Too noisy to tell: {'; '.join(noisy)} (an interval wider than {100 * NOISY:.0f} % of the"
            " median). Run it again on a machine that does nothing else, or with more --rounds."
        )
    return f"{rounds} rounds; no interval is wider than {100 * NOISY:.0f} % of its median."


def show(found: dict[str, Any]) -> None:
    """Prints the table of one case."""
    made = lines(found)
    size = "x".join(map(str, found["size"]))
    terminal.table(f"{found['recipe']} at {size} · {title(found)}", HEADER, [line.cells() for line in made])
    print(ceilings(found), verdict(found, made), sep="\n", flush=True)


def write(every: list[dict[str, Any]], out: Path, into: Path | None) -> None:
    """out.json, out.md and two pictures; `into`: a page that takes the table between its marks."""
    write_json(out.with_suffix(".json"), every)
    text = markdown(every)
    with replacing(out.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for folder, stem in [(out.parent, out.name), *([(into.parent, into.stem)] if into else [])]:
        bars(every, folder / f"{stem}.svg")
        roofline(every, folder / f"{stem}_roofline.svg")
    if into:
        page = into.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        with replacing(into) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    terminal.note(f"{out.with_suffix('.md')}, {out.with_suffix('.json')}, {out.with_suffix('.svg')}")


def markdown(every: list[dict[str, Any]]) -> str:
    """A table for each case."""
    parts = []
    for found in every:
        made = lines(found)
        head = f"### {found['recipe']}"
        size = "x".join(map(str, found["size"]))
        rows = ["| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] + ["---:"] * (len(HEADER) - 1))]
        rows += ["| " + " | ".join(line.cells()) + " |" for line in made]
        problems = [f"{name}: {text}." for name, text in found["problems"].items()]
        parts.append(
            f"{head}, {size}\n\n{title(found)}. Authors' form: {found['form']}.\n\n" + "\n".join(rows)
            + f"\n\n{ceilings(found)}. {verdict(found, made)}" + "".join(f"\n{text}" for text in problems) + "\n"
        )  # fmt: skip
    return "\n".join(parts)


def bars(every: list[dict[str, Any]], file: Path) -> None:
    """Every row's median with its interval, a panel for each case."""
    columns = 2 if len(every) > 1 else 1
    rows = -(-len(every) // columns)
    with plots.figure(9, 2.1 * rows + 0.2, rows=rows, columns=columns, grid="0.9", salt=file.stem) as (made, axes):
        for axis, found in zip(axes.flat, every, strict=False):
            shown = lines(found)
            places = range(len(shown))[::-1]
            medians = [line.median for line in shown]
            axis.barh(places, medians, color=[COLOURS[line.form] for line in shown], height=0.7)
            errors = [[x.median - x.low for x in shown], [x.high - x.median for x in shown]]
            axis.errorbar(medians, places, xerr=errors, fmt="none", ecolor="black", elinewidth=0.8)
            for place, line in zip(places, shown, strict=True):
                axis.text(line.high, place, f"  {line.median:.0f}" if line.median >= 10 else f"  {line.median:.1f}",
                          va="center", fontsize=7)  # fmt: skip
            axis.set_yticks(places, [f"{line.runtime} {line.precision}" for line in shown])
            axis.set_xlim(0, 1.12 * max(line.high for line in shown))
            axis.set_title(_name(found))
            axis.grid(axis="y", visible=False)
        for axis in axes.flat[len(every) :]:
            axis.set_visible(False)
        made.supxlabel(f"ms a frame; grey: authors' form, blue: ours. {title(every[0])}", fontsize=8)
        plots.save(made, file)


def _name(found: dict[str, Any]) -> str:
    return f"{found['recipe'].partition(' ')[0]}, {'x'.join(map(str, found['size']))}"


def roofline(every: list[dict[str, Any]], file: Path) -> None:
    """GMAC/s of every row over its MACs per byte, under what the machine can do."""
    best: dict[str, float] = {}
    for found in every:
        for name, values in found["ceilings"].items():
            precision = name.rpartition(" ")[2]
            best[precision] = max(best.get(precision, 0.0), statistics.median(values))
    bandwidth = best.pop("copy")
    with plots.figure(9, 4.2, salt=file.stem) as (made, [[axis]]):
        xs = np.geomspace(3, 200, 200)
        for precision, ceiling in best.items():
            axis.loglog(xs, np.minimum(ceiling, xs * bandwidth), color="0.8", linewidth=1, zorder=0)
            axis.text(xs[-1], 1.04 * ceiling, f"{precision}: {ceiling:.0f} GMAC/s", ha="right", fontsize=7)
        for index, found in enumerate(every):
            colour = f"C{index}"
            for line in lines(found):
                filled = colour if line.form == "ours" else "none"
                axis.plot(
                    line.intensity, line.speed, MARKS[line.precision], color=colour, markerfacecolor=filled,
                    markersize=5 if line.runtime == "OpenVINO" else 3.5,
                )  # fmt: skip
            axis.plot(
                [],
                [],
                "o",
                color=colour,
                label=f"{found['recipe'].partition(' ')[0]}, {found['size'][0]}x{found['size'][1]}",
            )
        for precision, mark in MARKS.items():
            axis.plot([], [], mark, color="0.4", label=precision)
        axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axis.set_yticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
        axis.minorticks_off()
        axis.set_title(
            f"GMAC/s over MACs a byte of its products' maps and weights; filled: ours, hollow: authors' form, large:"
            f" OpenVINO; {bandwidth:.0f} GB/s"
        )
        axis.set_xlabel(title(every[0]))
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        plots.save(made, file)
