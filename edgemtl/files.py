"""Writing files so that a reader never sees half of one."""

import errno
import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from edgemtl.errors import UsageError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no write permission",
    errno.EROFS: "the file system is read-only",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
}


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


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def add_json(path: Path, key: str, value: Any) -> None:
    """Sets one entry of the JSON object in `path`, which need not exist yet; the bundled models keep none."""
    if path.resolve().is_relative_to(Path(__file__).resolve().parent / "zoo"):
        return
    write_json(path, (read_json(path) if path.is_file() else {}) | {key: value})


def read_json(path: Path) -> Any:
    """The JSON in `path`; UsageError naming the file where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a journal, one JSON object with an `iteration` per line; none without the file.

    Any other line is left out: of a killed process the last may be half a line.
    """
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        parts = (record.get(key, {}) for key in ("loss", "scores")) if isinstance(record, dict) else [None]
        if all(isinstance(part, dict) for part in parts) and isinstance(record.get("iteration"), int):
            found.append(record)
    return found
