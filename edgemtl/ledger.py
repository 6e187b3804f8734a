"""The ledger, `scales.json`: every quantized tensor of an int8 model, and what a finished artifact holds of each.

NumPy only, and nothing here knows a file format: a target's `quantized(folder)` reads its own files, from their bytes,
and gives back what it found as `Found`.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np

from edgemtl.errors import UsageError
from edgemtl.files import read_json

FORMAT = "edgemtl int8 1"
LOW, HIGH = -128, 127
ROLES = ("weight", "activation")
SMALLEST, LARGEST = 2.0**-14, 65504.0  # of float16's normal numbers
NO_SCALE = np.zeros((), np.float32)  # of a place where none can be read
SLOT = re.compile(r"(pre|post)_hooks\.(.+)__(\d+)\.\d+")  # before or after an operation, its name, the port


class Check(NamedTuple):
    """One static check of an artifact: what a target's `check(folder, manifest)` gives back a list of."""

    name: str
    ok: bool
    text: str


class Found(NamedTuple):
    """One quantized tensor as a target's files hold it, one for each place."""

    name: str  # the ledger's
    role: str  # "weight" or "activation"
    bits: int
    axis: int | None  # of the channels with a scale each; None: one scale
    scale: np.ndarray  # float32, () or (C,)
    codes: np.ndarray | None = None  # int8 of a weight, in torch's layout; formats that shift them are shifted back
    # Names of the operations that read it (those that only move values stepped over). A converter that makes one node
    # of several equal quantizers on a tensor leaves its readers, and by them the ledger sees that nothing got lost.
    readers: tuple[str, ...] = ()
    problem: str | None = None  # what breaks the one int8 form here, such as a zero point of 3

    @property
    def sha256(self) -> str | None:
        """Of the codes' bytes, as the ledger has it."""
        return None if self.codes is None else hashlib.sha256(np.ascontiguousarray(self.codes).tobytes()).hexdigest()


class Row(NamedTuple):
    """One quantized tensor as the ledger has it."""

    name: str
    role: str  # "weight" or "activation"
    bits: int
    axis: int | None
    scale: np.ndarray  # float32, () or (C,)
    slots: tuple[str, ...]  # where it hangs in the network
    sha256: str | None  # of a weight's int8 codes


class Ledger(NamedTuple):
    """The content of scales.json."""

    sha256: str  # of the checkpoint it was written with
    rows: list[Row]


class Result(NamedTuple):
    """What a comparison found: texts by the tensor's name."""

    rows: dict[str, Row]
    places: dict[str, int]  # of the bit-equal entries: in how many places the artifact has them
    wrong: dict[str, str]  # what differs, or that the artifact does not have it
    merged: dict[str, str]  # what the converter made one node of, and how the artifact shows it
    unknown: dict[str, str]  # quantized tensors of the artifact that are not in the ledger

    @property
    def ok(self) -> bool:
        return not self.wrong and not self.unknown

    @property
    def text(self) -> str:
        """The count, in one line."""
        equal = [self.rows[name] for name in self.rows if name not in self.wrong]
        weights = sum(row.role == "weight" for row in equal)
        return (
            f"{len(equal)} of {len(self.rows)} entries bit-equal ({weights} weights, {len(equal) - weights}"
            f" activations, {sum(self.places.values())} places)"
        )


# ---- reading


def read(path: Path) -> Ledger:
    """The ledger in `path`; UsageError in one line where the file or an entry breaks the contract.

    Signed codes -128..127 and zero point 0; names that are unique; scales that float16 holds exactly and normally, one
    for an activation, one for each channel of a weight, and a weight's SHA-256.
    """
    raw = read_json(path)
    said = {key: raw.get(key) for key in ("format", "zero_point", "codes")} if isinstance(raw, dict) else None
    if said != (wanted := {"format": FORMAT, "zero_point": 0, "codes": [LOW, HIGH]}):
        raise UsageError(f"{path} is no ledger of this version: {said}, expected {wanted}; compress again")
    rows: dict[str, Row] = {}
    try:
        for entry in raw["quantized"]:
            row = _row(entry)
            if row.name in rows:
                raise ValueError("it is there twice")
            rows[row.name] = row
        return Ledger(str(raw["sha256"]), list(rows.values()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = entry.get("name") if "entry" in locals() and isinstance(entry, dict) else None
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} was damaged: {name or 'the file'}: {what}; compress again") from None


def _row(entry: dict[str, Any]) -> Row:
    name, role, axis, bits, slots = (entry[key] for key in ("name", "role", "axis", "bits", "slots"))
    scale = np.array(entry["scale"], np.float32)
    if not (isinstance(name, str) and re.fullmatch(r"[^\s#]+", name)):
        raise ValueError(f"{name!r} is no name")
    if role not in ROLES:
        raise ValueError(f"role {role!r}, expected {' or '.join(ROLES)}")
    if bits != 8:
        raise ValueError(f"{bits!r} bits, expected 8")
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
    return Row(name, role, bits, axis, scale, tuple(slots), entry.get("sha256"))


# ---- names of places


def place(name: str, index: int) -> str:
    """What the index-th node of one entry is called in a file, where names must differ."""
    return name if index == 0 else f"{name} #{index + 1}"


def name(place: str) -> str:
    """The ledger's name of a node called by `place`."""
    return place.partition(" #")[0]


# ---- comparing


def compare(rows: Sequence[Row], found: Sequence[Found]) -> Result:
    """Every row against every place where an artifact has it, bit for bit.

    A row with fewer places than slots is right only where the artifact shows why: its nodes have as many readers as the
    row has slots, or the operation that should read it reads another row's node with the same numbers.
    """
    places: dict[str, list[Found]] = {}
    for one in found:
        places.setdefault(one.name, []).append(one)
    result = Result({row.name: row for row in rows}, {}, {}, {}, {})
    functions = {row.name: [_function(operation) for operation in _operations(row)] for row in rows}
    for row in rows:
        here = places.get(row.name, [])
        differs = [text for text in (_difference(row, one) for one in here) if text]
        readers = sum(len(set(one.readers)) for one in here)
        if differs:
            result.wrong[row.name] = differs[0]
        elif not here:
            other, reader = _stand_in(row, rows, places, functions)
            if other is None:
                result.wrong[row.name] = "the artifact does not have it"
            else:
                functions[other.name] += functions[row.name]
                result.merged[row.name] = f"one node with {other.name}: equal {_what(row)}, and {reader} reads it"
        elif len(here) < len(row.slots) and readers < len(row.slots):
            result.wrong[row.name] = f"{len(row.slots)} slots, but {len(here)} places with {readers} readers"
        else:
            result.places[row.name] = len(here)
            if len(here) < len(row.slots):
                result.merged[row.name] = f"{len(row.slots)} slots in {len(here)} node(s), which {readers} readers have"
    for name, here in places.items():
        if name not in result.rows:
            result.unknown[name] = f"{here[0].role} that is not in the ledger"
    return result


def _what(row: Row) -> str:
    return "scales and codes" if row.role == "weight" else "scales"


def _difference(row: Row, one: Found) -> str | None:
    """What a place holds otherwise than the ledger, or None."""
    if one.problem:
        return one.problem
    for key in ("role", "bits", "axis"):
        if getattr(row, key) != getattr(one, key):
            return f"{key} {getattr(one, key)}, the ledger has {getattr(row, key)}"
    scale = np.asarray(one.scale)
    if scale.dtype != np.float32 or scale.shape != row.scale.shape:
        return f"scales {scale.dtype} {scale.shape}, the ledger has float32 {row.scale.shape}"
    unequal = np.flatnonzero(scale.reshape(-1).view(np.uint32) != row.scale.reshape(-1).view(np.uint32))
    if unequal.size:
        channel = int(unequal[0])
        got, wanted = (float(s.reshape(-1)[channel]) for s in (scale, row.scale))
        where = "scale" if row.axis is None else f"scale of channel {channel}"
        more = f" (and {unequal.size - 1} more)" if unequal.size > 1 else ""
        return f"{where} {got:.9g}, the ledger has {wanted:.9g}{more}"
    if row.role == "weight" and (one.codes is None or one.codes.dtype != np.int8):
        return f"codes {None if one.codes is None else one.codes.dtype}, the ledger has int8"
    if row.role == "weight" and one.sha256 != row.sha256:
        assert one.codes is not None
        return f"int8 codes {one.codes.shape} with SHA-256 {one.sha256}, the ledger has {row.sha256}"
    return None


def _stand_in(
    row: Row, rows: Sequence[Row], places: dict[str, list[Found]], functions: dict[str, list[str]]
) -> tuple[Found | None, str]:
    """The node with the same numbers that the operations of `row` read in its place, and the last of these readers.

    Which operation of the artifact is which is known by what else it reads: the ledger has a layer's weight and its
    input under one operation's name. An operation without a weight is known by its kind, and the node must have a
    reader of this kind beyond those that it is to have anyhow.
    """
    known = [one for r in rows for one in places.get(r.name, [])]
    equal = [one for one in known if _difference(row, one) is None]
    other, last = None, ""
    for operation in sorted(_operations(row)):
        beside = [r for r in rows if r is not row and operation in _operations(r)]
        there = {reader for r in beside for one in places.get(r.name, []) for reader in one.readers}
        kind = _function(operation)
        for one in equal:
            readers = sorted(there & set(one.readers)) if beside else [r for r in one.readers if kind in r.lower()]
            if len(readers) > (0 if beside else functions[one.name].count(kind)):
                other, last = one, readers[-1]
                break
        else:
            return None, ""
    return other, last


def _operations(row: Row) -> set[str]:
    return {match[2] for match in map(SLOT.fullmatch, row.slots) if match and match[1] == "pre"}


def _function(operation: str) -> str:
    """The kind of a named operation: "add" of 0/__iadd__/1."""
    name = operation.split("/")[-2].strip("_") if "/" in operation else operation
    return name[1:] if name in ("iadd", "radd") else name
