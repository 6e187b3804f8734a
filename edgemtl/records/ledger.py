"""The ledger, `scales.json`, lists every quantized tensor of an int8 model; artifacts' files are compared with it.

NumPy only. This module knows no file format: a target's `quantized(folder)` reads the bytes of its own files and
returns the quantized tensors of each file as `Found`.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Callable, Container, Iterable, Mapping, NamedTuple, Sequence, TypeVar

import numpy as np

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json

FORMAT = "edgemtl int8 2"
CODES = {7: (-64, 63), 8: (-128, 127)}  # the smallest and the largest by bits; an activation has 8
LOW, HIGH = CODES[8]
SCALES = ("power of two", "float16")
ROLES = ("weight", "activation")
OUTPUT = "output"
SMALLEST, LARGEST = 2.0**-14, 65504.0  # of float16's normal numbers
NO_SCALE = np.zeros((), np.float32)  # of a place where none can be read
Node = TypeVar("Node")
SLOT = re.compile(r"(pre|post)_hooks\..+__\d+\.\d+|points\..+")  # before or after an operation, or a point's path


class Check(NamedTuple):
    """The result of one static check of an artifact; a target's `check(folder, manifest)` returns a list of them."""

    name: str
    ok: bool
    text: str


class Found(NamedTuple):
    """One place of a quantized tensor in one of a target's files, or one of the file's maps."""

    name: str  # the ledger's; of a map, its task
    role: str  # "weight", "activation" or "output"
    bits: int  # that a code is stored in
    axis: int | None  # of the channels with a scale each; None: one scale
    scale: np.ndarray  # float32, () or (C,)
    codes: np.ndarray | None = None  # int8 of a weight, in torch's layout; formats that shift them are shifted back
    # Names of the operations that read it, not counting those that only move values. A converter may make one node of
    # several equal quantizers on a tensor. It keeps their readers, which show that no quantizer was lost.
    readers: tuple[str, ...] = ()
    # Where it stands, as `sources`: those of the tensor that an activation is rounded from; of a weight, those of the
    # other input of each layer that has it; those of a map.
    reads: tuple[tuple[str, ...], ...] = ()
    problem: str | None = None  # how this place breaks the one int8 form, such as by a zero point of 3

    @property
    def sha256(self) -> str | None:
        """Of the codes' bytes, as the ledger has it."""
        return None if self.codes is None else hashlib.sha256(np.ascontiguousarray(self.codes).tobytes()).hexdigest()


Files = Mapping[str, Sequence[Found]]  # what each file of an artifact holds, by the file's name


class Row(NamedTuple):
    """One quantized tensor as the ledger has it."""

    name: str
    role: str  # "weight" or "activation"
    bits: int
    axis: int | None
    scale: np.ndarray  # float32, () or (C,)
    slots: tuple[str, ...]  # where it hangs in the network
    sha256: str | None  # of a weight's int8 codes
    reads: frozenset[tuple[str, ...]]  # where it stands, as in Found
    least: int | None = None  # in how many places a file has it at the least, of a cut ledger; None: one for each slot


class Ledger(NamedTuple):
    """The content of scales.json."""

    sha256: str  # of the checkpoint it was written with
    scales: str  # "power of two" or "float16"
    rows: list[Row]
    outputs: dict[str, tuple[str, ...]]  # the sources of each map


class Comparison(NamedTuple):
    """The result of a comparison: texts by the tensor's name."""

    rows: dict[str, Row]
    places: dict[str, int]  # of each bit-equal entry: the number of its places in the artifact
    wrong: dict[str, str]  # what differs, or that the artifact does not have it
    merged: dict[str, str]  # entries that share a node with others, and how the artifact shows it
    unknown: dict[str, str]  # quantized tensors of the artifact that are not in the ledger
    files: int = 1

    @property
    def ok(self) -> bool:
        return not self.wrong and not self.unknown

    @property
    def equal(self) -> list[Row]:
        """The entries that every file holds bit-equal."""
        return [row for name, row in self.rows.items() if name not in self.wrong]

    @property
    def text(self) -> str:
        """The count, in one line."""
        weights = sum(row.role == "weight" for row in self.equal)
        where = f" in each of {self.files} files" if self.files > 1 else ""
        return (
            f"{len(self.equal)} of {len(self.rows)} entries bit-equal{where} ({weights} weights,"
            f" {len(self.equal) - weights} activations, {sum(self.places.values())} places)"
        )


# ---- reading


def read(path: Path) -> Ledger:
    """The ledger in `path`; UsageError in one line where the file or an entry breaks the contract.

    Signed codes and zero point 0; names that are unique; scales that float16 holds exactly and normally, one for an
    activation, one for each channel of a weight, powers of two where the ledger says so; a weight's SHA-256.
    """
    raw = read_json(path)
    form = raw.get("format") if isinstance(raw, dict) else None
    if form == "edgemtl int8 1":
        raise UsageError(f"{path} is of int8 scheme 1, whose codes overflow on CPUs without VNNI; compress again")
    if form != FORMAT:
        raise UsageError(f"{path} is no ledger of this version: format {form!r}, expected {FORMAT!r}; compress again")
    entry: Any = None
    rows: dict[str, Row] = {}
    try:
        bits, scales = _scheme(raw)
        for entry in raw["quantized"]:
            row = _row(entry, bits, scales)
            if row.name in rows:
                raise ValueError("it is there twice")
            rows[row.name] = row
        for entry in raw["quantized"]:
            _known(*rows[entry["name"]].reads, rows=rows)
        entry = None
        outputs = {str(task): tuple(sorted(names)) for task, names in raw["outputs"].items()}
        _known(*outputs.values(), rows=rows)
        return Ledger(str(raw["sha256"]), scales, list(rows.values()), outputs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = entry.get("name") if isinstance(entry, dict) else None
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} was damaged: {name or 'the file'}: {what}; compress again") from None


def _scheme(raw: dict[str, Any]) -> tuple[int, str]:
    """Bits of a weight's code, and the kind of scales."""
    codes, scales = {role: tuple(ends) for role, ends in raw["codes"].items()}, raw["scales"]
    bits = next((bits for bits, ends in CODES.items() if codes == {"weight": ends, "activation": CODES[8]}), None)
    if bits is None:
        raise ValueError(f"codes {raw['codes']}, expected -64..63 or -128..127 for weights, -128..127 for activations")
    if raw["zero_point"] != 0:
        raise ValueError(f"zero point {raw['zero_point']!r}, expected 0")
    if scales not in SCALES:
        raise ValueError(f"scales {scales!r}, expected {' or '.join(SCALES)}")
    return bits, scales


def _row(entry: dict[str, Any], weight_bits: int, scales: str) -> Row:
    name, role, axis, bits, slots = (entry[key] for key in ("name", "role", "axis", "bits", "slots"))
    scale = np.array(entry["scale"], np.float32)
    if not (isinstance(name, str) and re.fullmatch(r"[^\s#]+", name)):
        raise ValueError(f"{name!r} is no name")
    if role not in ROLES:
        raise ValueError(f"role {role!r}, expected {' or '.join(ROLES)}")
    if bits != (wanted := weight_bits if role == "weight" else 8):
        raise ValueError(f"{bits!r} bits, expected {wanted}")
    if not slots or not all(SLOT.fullmatch(slot) for slot in slots):
        raise ValueError(f"no slots, or unknown ones: {slots}")
    if role == "activation" and (axis is not None or scale.shape != ()):
        raise ValueError(f"an activation has one scale, this one has axis {axis} and {scale.size} scales")
    if role == "weight" and not (isinstance(axis, int) and scale.ndim == 1 and scale.size):
        raise ValueError(f"a weight has a scale for each channel, this one has axis {axis} and scales {scale.shape}")
    if role == "weight" and not re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256"))):
        raise ValueError(f"a weight has a SHA-256 of its codes, this one has {entry.get('sha256')!r}")
    with np.errstate(over="ignore"):
        exact = scale.astype(np.float16).astype(np.float32) == np.array(entry["scale"], np.float64)
    for number in scale[~(exact & (scale >= SMALLEST) & (scale <= LARGEST))].flat:
        raise ValueError(f"scale {number:.9g} is no positive, normal float16 number")
    if scales == SCALES[0]:
        for number in scale[np.frexp(scale)[0] != 0.5].flat:
            raise ValueError(f"scale {number:.9g} is no power of two")
    reads = frozenset(tuple(sorted(names)) for names in entry["reads"])
    return Row(name, role, bits, axis, scale, tuple(slots), entry.get("sha256"), reads)


def _known(*sources: tuple[str, ...], rows: dict[str, Row]) -> None:
    for unknown in {name for names in sources for name in names} - set(rows):
        raise ValueError(f"it reads {unknown}, which has no entry")


# ---- cutting


def cut(ledger: Ledger, tasks: Container[str]) -> Ledger:
    """The ledger of a file with only these tasks: the rows that their maps are computed from.

    A layer that runs several times may run less often in such a file. Then its rows have fewer places, but at least
    one, and a row that only some of its runs need may be missing. A loss still shows, because each reader names its
    sources.
    """
    outputs = {task: names for task, names in ledger.outputs.items() if task in tasks}
    if outputs.keys() == ledger.outputs.keys():
        return ledger
    before = {row.name: row.reads for row in ledger.rows if row.role == "activation"}
    start = [name for names in outputs.values() for name in names]
    possible = _above(start, before)
    certain = _above(start, {name: reads for name, reads in before.items() if len(reads) == 1})
    rows = []
    for row in ledger.rows:
        if row.name in possible:
            least = 0 if row.name not in certain else 1
            reads = frozenset(names for names in row.reads if possible.issuperset(names))
            rows.append(row._replace(reads=reads, least=least))
    return ledger._replace(rows=rows, outputs=outputs)


def _above(names: Iterable[str], before: Mapping[str, Iterable[tuple[str, ...]]]) -> set[str]:
    """These names, the names that they read, and so on."""
    return set(reached(names, lambda name: [other for read in before.get(name, ()) for other in read]))


# ---- names and places


def node_name(name: str, index: int) -> str:
    """The name in a file of an entry's node number `index`; names of nodes must differ."""
    return name if index == 0 else f"{name} #{index + 1}"


def entry_name(place: str) -> str:
    """The ledger's name of a node with this name in a file."""
    return place.partition(" #")[0]


def sources(
    start: Iterable[Any], named: Callable[[Any], str | None], before: Callable[[Any], Iterable[Any]]
) -> tuple[str, ...]:
    """The names of the quantized tensors that the nodes `start` are computed from: the nearest on every path up.

    A converter may split, fuse or reorder the operations in between without changing this, if `before` leaves out nodes
    that read only a shape. It does change if a quantizer stands on another tensor, or if a reader takes the float
    tensor instead.
    """
    passed = reached(start, lambda node: before(node) if named(node) is None else ())
    return tuple(sorted({name for name in map(named, passed) if name is not None}))


def reached(start: Iterable[Node], step: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """The nodes of a graph that `start` leads to, those themselves included, each once; `step` gives a node's next."""
    passed: dict[Node, None] = {}
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in passed:
            passed[node] = None
            waiting += step(node)
    return list(passed)


def output(task: str, made_of: tuple[str, ...]) -> Found:
    """A map of a file."""
    return Found(task, OUTPUT, 0, None, NO_SCALE, reads=(made_of,))


# ---- comparing


def compare_files(ledger: Ledger, files: Files) -> Comparison:
    """Compares every row with every file. With several files, texts name the file."""
    results = {file: compare(ledger, found) for file, found in files.items()}
    if len(results) == 1:
        return next(iter(results.values()))
    rows = {name: row for result in results.values() for name, row in result.rows.items()}
    total = Comparison(rows, {}, {}, {}, {}, len(results))
    for file, result in results.items():
        for name, count in result.places.items():
            total.places[name] = total.places.get(name, 0) + count
        for kind in ("wrong", "merged", "unknown"):
            texts = getattr(total, kind)
            for name, text in getattr(result, kind).items():
                texts[name] = f"{texts[name]}; {file}: {text}" if name in texts else f"{file}: {text}"
    return total


def compare(ledger: Ledger, found: Sequence[Found]) -> Comparison:
    """Compares every row with all its places in one file: their bits, and where they stand.

    A file has a row in as many places as the network. It may have fewer if it shows why: the row's nodes have as many
    readers as the row has slots, or another row's node with the same numbers stands on the same tensor and is read
    instead.
    """
    places: dict[str, list[Found]] = {}
    for one in found:
        if one.role != OUTPUT:
            places.setdefault(one.name, []).append(one)
    result = Comparison({row.name: row for row in ledger.rows}, {}, {}, {}, {})
    for row in ledger.rows:
        here = places.get(row.name, [])
        differs = [text for text in (_difference(row, one) for one in here) if text]
        readers = sum(len(set(one.readers)) for one in here)
        if differs:
            result.wrong[row.name] = differs[0]
        elif len(here) > len(row.slots):
            result.wrong[row.name] = f"{len(here)} places, the network has {len(row.slots)}"
        elif here and len(here) < _least(row) and readers < _least(row):
            result.wrong[row.name] = f"{len(row.slots)} slots, but {len(here)} places with {readers} readers"
        elif here:
            result.places[row.name] = len(here)
            if len(here) < _least(row):
                result.merged[row.name] = f"{len(row.slots)} slots in {len(here)} node(s), which {readers} readers have"
    outputs = {one.name: one for one in found if one.role == OUTPUT}
    _Standing(ledger, places, outputs).judge(result)
    for name, here in places.items():
        if name not in result.rows:
            result.unknown[name] = f"{here[0].role} that is not in the ledger"
    return result


def _least(row: Row) -> int:
    return len(row.slots) if row.least is None else row.least


def _difference(row: Row, one: Found) -> str | None:
    """How a place differs from the ledger, or None."""
    if one.problem:
        return one.problem
    for key in ("role", "axis"):
        if getattr(row, key) != getattr(one, key):
            return f"{key} {getattr(one, key)}, the ledger has {getattr(row, key)}"
    if one.bits != 8:
        return f"stored in {one.bits} bits, expected 8"
    scale = np.asarray(one.scale)
    if scale.dtype != np.float32 or scale.shape != row.scale.shape:
        return f"scales {scale.dtype} {scale.shape}, the ledger has float32 {row.scale.shape}"
    unequal = np.flatnonzero(scale.reshape(-1).view(np.uint32) != row.scale.reshape(-1).view(np.uint32))
    if unequal.size:
        channel = int(unequal[0])
        value, expected = (float(s.reshape(-1)[channel]) for s in (scale, row.scale))
        where = "scale" if row.axis is None else f"scale of channel {channel}"
        more = f" (and {unequal.size - 1} more)" if unequal.size > 1 else ""
        return f"{where} {value:.9g}, the ledger has {expected:.9g}{more}"
    if row.role == "activation":
        return None
    if one.codes is None or one.codes.dtype != np.int8:
        return f"codes {None if one.codes is None else one.codes.dtype}, the ledger has int8"
    if one.sha256 != row.sha256:
        return f"int8 codes {one.codes.shape} with SHA-256 {one.sha256}, the ledger has {row.sha256}"
    low, high = CODES[row.bits]
    if one.codes.min() < low or one.codes.max() > high:
        return f"codes {one.codes.min()}..{one.codes.max()}, {row.bits} bits are {low}..{high}"
    return None


class _Standing:
    """Where the rows of a ledger stand in one file, judged by what their places read."""

    def __init__(self, ledger: Ledger, places: dict[str, list[Found]], outputs: dict[str, Found]) -> None:
        self.ledger, self.places, self.outputs = ledger, places, outputs
        self.instead: dict[str, str] = {}  # a row without a node -> the row whose node stands for it

    def judge(self, result: Comparison) -> None:
        """Adds to the result the rows that stand elsewhere, are missing or were merged."""
        missing = {row.name: row for row in self.ledger.rows if row.name not in self.places}
        broken = {name for name, here in self.places.items() if any(one.problem for one in here)}
        hidden: set[str] = set()  # rows about which a lost row leaves doubt: they do not count against others
        while missing:
            found = {name: known for name, row in missing.items() if (known := self._stand_in(row, hidden))}
            for name, (stand_in, reader) in found.items():
                numbers = "scales and codes" if missing.pop(name).role == "weight" else "scales"
                result.merged[name] = f"one node with {stand_in}: equal {numbers}, and {reader} reads it"
                self.instead[name] = stand_in
            if not found and hidden:
                break
            hidden |= set() if found else missing.keys() | broken
        for name in [name for name, row in missing.items() if row.least == 0]:  # other tasks' alone, see `cut`
            del missing[name], result.rows[name]
        for name in missing:
            result.wrong[name] = "the artifact does not have it"
        lost = missing.keys() | broken
        for row in self.ledger.rows:
            if row.name in result.places:
                group = [other for other in self.ledger.rows if self.instead.get(other.name, other.name) == row.name]
                wanted = frozenset(names for other in group for names in other.reads)
                what = "its layer reads" if row.role == "weight" else "it stands on"
                if any(other.least is not None for other in group):  # of a cut ledger: in some of the network's places
                    got = {names for one in self.places[row.name] for names in one.reads}
                    wanted = frozenset(names for names in wanted if self._renamed(names) in got) or wanted
                self._hold(result, row.name, what, wanted, self.places[row.name], lost)
        for task, names in self.ledger.outputs.items():
            if task in self.outputs:
                self._hold(result, task, "the map comes from", frozenset([names]), [self.outputs[task]], lost)
            else:
                result.wrong[task] = "the artifact has no such map"

    def _hold(
        self,
        result: Comparison,
        name: str,
        what: str,
        wanted: frozenset[tuple[str, ...]],
        here: list[Found],
        lost: set[str],
    ) -> None:
        """Notes where `here` does not read what it should, unless a lost row leaves that in doubt."""
        if any(lost & set(names) for names in wanted):
            return
        wanted = frozenset(map(self._renamed, wanted))
        got = {names for one in here for names in one.reads}
        if got != wanted:
            less, more = (" or ".join(map(_listed, sorted(names))) for names in (wanted - got, got - wanted))
            result.places.pop(name, None)
            if more:
                result.wrong[name] = f"{what} {more}{f', not {less}' if less else ' as well'}"
            else:
                result.wrong[name] = f"in no place {what} {less}"

    def _renamed(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted({self.instead.get(name, name) for name in names}))

    def _stand_in(self, row: Row, hidden: set[str]) -> tuple[str, str] | None:
        """The row whose node does the work of `row`, which has none, and one that reads it.

        It has the same numbers, stands on the same tensor, and whatever reads `row` in the network reads it.
        """
        wanted = {self._renamed(names) for names in row.reads if not hidden & set(names)}
        for other in self.ledger.rows:
            here = self.places.get(other.name, [])
            if not here or any(_difference(row, one) for one in here):
                continue
            if not wanted <= {names for one in here for names in one.reads}:
                continue
            readers = self._readers(row.name)
            if readers and all(self._takes(other.name, places) for places in readers.values()):
                return other.name, next(iter(readers))
        return None

    def _readers(self, name: str) -> dict[str, list[Found]]:
        """What reads a row in the network, each with its places; none where it has been merged itself."""
        rows = [row.name for row in self.ledger.rows if any(name in names for names in row.reads)]
        maps = [task for task, names in self.ledger.outputs.items() if name in names and task in self.outputs]
        return {row: self.places.get(row, []) for row in rows} | {task: [self.outputs[task]] for task in maps}

    @staticmethod
    def _takes(name: str, places: list[Found]) -> bool:
        return not places or any(name in names for one in places for names in one.reads)


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more or "nothing quantized"
