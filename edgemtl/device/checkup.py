"""Looks through a data set before anybody trains on it: what is there, what is broken, what it looks like."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import cv2
import numpy as np

from edgemtl.device import draw
from edgemtl.ground import registry, show
from edgemtl.ground.errors import CheckFailed, UsageError, unknown
from edgemtl.ground.files import replacing
from edgemtl.records.frames import spread
from edgemtl.tasks import Size, Task

SHOWN = 5  # problems of a split, frames that recur
PICTURED = 3  # frames of a split
ROW = (340, 1800)  # the picture's canvas for a frame

Official = Mapping[str, int | None]  # the frames of each split, where they are prescribed


class Look(NamedTuple):
    """What one frame holds. `counts` has each task's tally of its label."""

    size: Size | None  # None where the image cannot be read
    digest: bytes  # of the image's pixels
    counts: dict[str, np.ndarray]
    problems: list[str]

    @property
    def richness(self) -> tuple[int, int]:
        """Frames with more tasks labelled, then with more different values, tell more in a picture."""
        counts = self.counts.values()
        return sum(bool(c.any()) for c in counts), sum(int(np.count_nonzero(c)) for c in counts)


class Split:
    """One split of a data set, opened once for all tasks and once for each, so that a broken file spoils no other."""

    def __init__(self, source: ModuleType, root: Path, name: str, tasks: Mapping[str, Task]) -> None:
        self.name, self.problems = name, []
        self.samples = source.open(root, name, ())
        self.readers: dict[str, Any] = {}
        for task in tasks:
            try:
                self.readers[task] = source.open(root, name, (task,))
            except UsageError as error:
                self.problems.append(str(error))
        self.tasks = {task: tasks[task] for task in self.readers}
        self.whole = source.open(root, name, tuple(self.readers))
        self.looks: dict[int, Look] = {}

    def look(self, index: int) -> Look:
        """Frame `index` read, counted and checked."""
        sample, problems = self.read(index)
        paths = self.whole.paths(index)
        counts = {}
        for name, task in self.tasks.items():
            if name in sample:
                counts[name] = task.tally(sample[name])
                if wrong := task.wrong(sample[name]):
                    problems.append(f"{paths[name][0]} holds {wrong}")
        image = sample.get("image")
        digest = b"" if image is None else hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        return Look(None if image is None else image.shape[:2], digest, counts, problems)

    def read(self, index: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """What can be read of frame `index`, and what is wrong with the rest."""
        every = [path for paths in self.whole.paths(index).values() for path in paths]
        problems = dict.fromkeys(f"{path} is missing" for path in every if not path.is_file())
        if not problems:
            try:
                return self.whole[index], []
            except UsageError:
                pass
        sample: dict[str, np.ndarray] = {}
        for reader in (self.samples, *self.readers.values()):
            try:
                sample |= reader[index]
            except UsageError as error:
                problems[str(error)] = None
        return sample, list(problems)

    @property
    def found(self) -> list[str]:
        """Every problem, each once."""
        return list(dict.fromkeys(self.problems + [p for look in self.looks.values() for p in look.problems]))


def checkup(
    root: Path, *, dataset: str | None = None, limit: int | None = None, out: Path | None = None
) -> dict[str, Split]:
    """The splits of the data set in `root`, looked through; tables on standard output, a picture in `out`/DATASET.png.

    `dataset` is a file in edgemtl/data, else recognised by its listings; `out` is `doctor` in the current folder, and
    nothing is written beside the data. With `limit`, that many frames of each split, evenly spaced. CheckFailed where
    files are missing, do not decode, differ in size from their image or hold values out of range, and where a task has
    no labels in a split, or the same one everywhere; with a `limit` that is only told, as are sizes of splits other
    than the official ones and frames that recur. UsageError where there is no data set.
    """
    name, source = _recognise(root, dataset)
    picture = (out or Path("doctor")) / f"{name}.png"
    if picture.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{picture} would lie inside the data set; name another folder with --out")
    tasks, official = source.described(root) if hasattr(source, "described") else (source.TASKS, source.FRAMES)
    splits, problems = {}, []
    for split in official:
        try:
            splits[split] = Split(source, root, split, tasks)
        except UsageError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):  # that says nothing about the data
                raise
            problems.append(str(error))
    with show.progress() as bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for split in splits.values():
                count = len(split.whole)
                indices = spread(count, count if limit is None else limit)
                bar_row = bar.add_task(f"{name}, {split.name}", total=len(indices), status="")
                for index, look in zip(indices, pool.map(split.look, indices)):
                    split.looks[index] = look
                    bar.advance(bar_row)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # or Ctrl-C would wait for every frame
    if splits:
        _show(f"{source.NAME} in {root}", splits, tasks, official)
        for note in _notes(splits, official):
            print(f"note: {note}")
    for split in splits.values():
        if limit is None:
            split.problems += _empty(split)
        else:
            for problem in _empty(split):
                print(f"note: {problem}")
    lists = {"": problems} | {split.name: split.found for split in splits.values()}
    for split_name, problems_of in lists.items():
        for problem in problems_of[:SHOWN]:
            print(f"broken: {problem}")
        if len(problems_of) > SHOWN:
            print(f"broken: {len(problems_of) - SHOWN} more in {split_name}")
    if splits:
        _write(picture, splits, source.NAME)
    problems = list(dict.fromkeys(problem for problems_of in lists.values() for problem in problems_of))
    if problems:
        raise CheckFailed(f"{root} has {_number(len(problems), 'problem')}; the first: {problems[0]}")
    print("nothing is broken")
    return splits


def _recognise(root: Path, dataset: str | None) -> tuple[str, ModuleType]:
    """The name and the module of the data set in `root`."""
    readers = {n: m for n in registry.names("data") if hasattr(m := registry.load("data", n), "LISTING")}
    if dataset is not None and dataset not in readers:
        raise unknown("data set", dataset, readers)
    if not root.is_dir():
        raise UsageError(f"{root} is no folder")
    for name, source in readers.items():
        places = (root, *(root / folder for folder in source.UNPACKED))
        listings = [place / source.LISTING.format(split=split) for place in places for split in source.FRAMES]
        if name == dataset or dataset is None and any(listing.is_file() for listing in listings):
            return name, source
    expected = " or ".join(f"{m.LISTING.format(split=next(iter(m.FRAMES)))} ({n})" for n, m in readers.items())
    raise UsageError(f"{root} is no data set known here: it has no {expected}")


# ---- all frames


def _show(title: str, splits: dict[str, Split], tasks: Mapping[str, Task], official: Official) -> None:
    """The tables: splits, tasks, classes."""
    rows: list[Sequence[object]] = []
    for split in splits.values():
        broken = sum(bool(look.problems) for look in split.looks.values())
        prescribed = official[split.name] or "–"
        row = (split.name, len(split.whole), prescribed, len(split.looks), broken, _sizes(split))
        rows.append(row)
    show.table(title, ("split", "frames", "official", "looked at", "broken", "sizes (height x width)"), rows)

    rows, shares = [], {}
    for name, task in tasks.items():
        for split in splits.values():
            looks = [look for look in split.looks.values() if look.size and name in look.counts]
            counts = sum((look.counts[name] for look in looks), np.zeros(1, np.int64))
            pixels = sum(look.size[0] * look.size[1] for look in looks if look.size)
            labelled = sum(bool(look.counts[name].any()) for look in looks)
            unlabelled = f"{100 - 100 * counts.sum() / pixels:.1f}" if pixels else "–"
            summary = task.summary(counts) if counts.any() else "nothing"
            rows.append((name, split.name, f"{labelled:>6}", f"{unlabelled:>13}", summary))
            if task.class_names and counts.any():
                shares[name, split.name] = 100 * counts / counts.sum()
    header = ("task", "split", "frames", "unlabelled, %", "labelled pixels")
    show.table("labels: frames that have any, the share of pixels without, what the others hold", header, rows, left=5)

    for name, task in tasks.items():
        columns = [split for split in splits if (name, split) in shares]
        if columns:
            classes = enumerate(task.class_names)
            lines = [(text, *(f"{shares[name, s][k]:.2f}" for s in columns)) for k, text in classes]
            half = (len(lines) + 1) // 2
            empty = ("",) * (1 + len(columns))
            rows = [(*a, *b) for a, b in zip(lines[:half], [*lines[half:], empty])]
            show.table(f"{name}: % of the labelled pixels", ("class", *columns) * 2, rows)


def _sizes(split: Split) -> str:
    """The three commonest sizes of images and how many have them."""
    counts = Counter(look.size for look in split.looks.values() if look.size)
    parts = [f"{h}x{w}" + f" ({n})" * (len(counts) > 1) for (h, w), n in counts.most_common(3)]
    if len(counts) > 3:
        low, high = np.min(list(counts), axis=0), np.max(list(counts), axis=0)
        parts.append(f"{len(counts) - 3} more, {low[0]} to {high[0]} high, {low[1]} to {high[1]} wide")
    return ", ".join(parts) or "–"


def _notes(splits: dict[str, Split], official: Official) -> Iterator[str]:
    """Oddities that are no reason to fail: sizes of splits, frames in more than one, the same picture twice."""
    for split in splits.values():
        if official[split.name] not in (None, len(split.whole)):
            yield f"{split.name} has {len(split.whole)} frames, the official split {official[split.name]}"
        again = [name for name, count in Counter(split.samples.names).items() if count > 1]
        if again:
            yield f"{split.name} lists {_number(len(again), 'frame')} more than once, such as {again[0]}"
    for one, other in combinations(splits.values(), 2):
        both = sorted(set(one.samples.names) & set(other.samples.names))
        if both:
            yield f"{one.name} and {other.name} share {_number(len(both), 'frame')}, such as {both[0]}"
    first: dict[bytes, str] = {}
    pairs = []
    for split in splits.values():
        for index, look in split.looks.items():
            name = f"{split.name} {split.samples.name(index)}"
            earlier = first.setdefault(look.digest, name) if look.digest else name
            if earlier.partition(" ")[2] != split.samples.name(index):
                pairs.append(f"{earlier} and {name}")
    if pairs:
        many = f"{len(pairs)} pictures recur under another name, such as"
        yield f"{many if len(pairs) > 1 else '1 picture recurs under another name:'} {pairs[0]}"


def _empty(split: Split) -> list[str]:
    """The tasks for which no frame that was looked at has a label, or none but the same one for every pixel."""
    names = []
    for name, task in split.tasks.items():
        looks = [look for look in split.looks.values() if name in look.counts]
        counts = sum((look.counts[name] for look in looks), np.zeros(1, np.int64))
        where = f"of the {_number(len(looks), 'frame')} of {split.name} looked at"
        if looks and not counts.any():
            names.append(f"none {where} has a {name} label")
        elif looks and (same := task.everywhere(counts)) is not None:
            names.append(f"every pixel {where} is {same!r} by its {name} label")
    return names


def _write(path: Path, splits: dict[str, Split], title: str) -> None:
    """A picture of a few frames of every split with their labels painted, one frame a row; the fullest of each part."""
    rows = []
    for split in splits.values():
        readable = [index for index, look in split.looks.items() if look.size]
        for part in np.array_split(readable, min(PICTURED, len(readable))) if readable else []:
            index = max(part.tolist(), key=lambda k, looks=split.looks: looks[k].richness)  # type: ignore[misc]
            sample, _ = split.read(index)
            frame = sample.pop("image")
            size = "x".join(map(str, frame.shape[:2]))
            head = (f"{title}, {split.name}: {split.samples.name(index)}", size)
            rows.append(draw.tiles(frame, sample, split.tasks, head=head, canvas=ROW))
    if not rows:
        return
    width = max(row.shape[1] for row in rows)
    fill = (draw.BACKGROUND,) * 3
    sheet = [cv2.copyMakeBorder(r, 0, 0, 0, width - r.shape[1], cv2.BORDER_CONSTANT, value=fill) for r in rows]
    with replacing(path) as temporary:
        ok, data = cv2.imencode(".png", cv2.cvtColor(np.concatenate(sheet), cv2.COLOR_RGB2BGR))
        assert ok
        temporary.write_bytes(data.tobytes())
    show.line(f"{path}: {_number(len(rows), 'frame')} with their labels")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
