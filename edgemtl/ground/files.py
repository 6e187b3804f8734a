"""Writing files so that a reader never sees half of one."""

import errno
import hashlib
import json
import math
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

import platformdirs

from edgemtl.ground.errors import UsageError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no write permission",
    errno.EROFS: "the file system is read-only",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
}


def user_cache() -> Path:
    """The user's folder for files that can be computed again."""
    return Path(platformdirs.user_cache_dir("edgemtl", appauthor=False))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises UsageError where the folder cannot be written or the disk is full.
    """
    # The suffix stays last because OpenCV and OpenVINO choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise UsageError(f"cannot write {path}: {REASONS[error.errno]}") from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well and vanishes when it does not."""
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("part", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():  # a full folder cannot be renamed over
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        raise UsageError(f"cannot write {folder}: {os.strerror(error.errno).lower()}") from error
    finally:
        if old.exists() and not folder.exists():  # an error or Ctrl-C between the two renames
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def dumps(value: Any, indent: int | None = None) -> str:
    """`value` as JSON; numbers that are not finite, which JSON does not have, become null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all; see `dumps`."""
    with replacing(path) as temporary:
        temporary.write_text(dumps(value, indent=1) + "\n", encoding="utf-8")


def add_json(path: Path, key: str, value: Any) -> None:
    """Sets one entry of the JSON object in `path`, which need not exist yet; nothing is kept in the user's cache."""
    with suppress(RuntimeError):  # nobody's home
        if path.resolve().is_relative_to(user_cache().resolve()):
            return
    write_json(path, read_entries(path) | {key: value})


def keep(path: Path, key: str, value: Any) -> list[str]:
    """As `add_json`, for results that were shown: returns why they cannot be written, instead of raising it.

    So the caller can first say what is wrong with the results.
    """
    try:
        add_json(path, key, value)
    except (UsageError, OSError) as error:
        return [str(error)]
    return []


def read_json(path: Path) -> Any:
    """The JSON in `path`; UsageError naming the file where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None


def read_entries(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; an empty one where there is no file."""
    return read_json(path) if path.is_file() else {}


def difference(found: Any, wanted: Any) -> str | None:
    """Where a value, as JSON, differs first from what is wanted: the key and both values; None where it is equal."""
    return _difference(json.loads(json.dumps(found)), json.loads(json.dumps(wanted)), ())


def _difference(found: Any, wanted: Any, where: tuple[str, ...]) -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        pairs = [(key, found.get(key), wanted.get(key)) for key in dict.fromkeys([*wanted, *found])]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [(str(index), one, other) for index, (one, other) in enumerate(zip(found, wanted))]
    else:
        return None if found == wanted else f"its {'.'.join(where) or 'content'} is {found!r}, not {wanted!r}"
    return next((text for key, one, other in pairs if (text := _difference(one, other, (*where, key)))), None)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a journal, one JSON object with an `iteration` per line; none without the file.

    Any other line is skipped: the last line of a killed process may be cut off.
    """
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        parts = (record.get(key, {}) for key in ("loss", "scores")) if isinstance(record, dict) else [None]
        if all(isinstance(part, dict) for part in parts) and isinstance(record.get("iteration"), int):
            records.append(record)
    return records
