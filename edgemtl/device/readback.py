"""An int8 artifact's own bytes against the ledger of the run it came from; no torch, and nothing is run."""

from pathlib import Path
from typing import Any

from edgemtl.device import overflow
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import keep, read_entries
from edgemtl.records import artifact, ledger
from edgemtl.records.artifact import Manifest
from edgemtl.records.run import Run, run_of
from edgemtl.records.target import load_target


def read_back(path: Path, *, run: Path | Run | None = None, as_json: bool = False) -> dict[str, Any]:
    """What of the ledger in `run` (default: the folder around the artifact) is in each of the artifact's files, bit for
    bit and in its place, and whether the codes there can overflow.

    The result, also kept in the run's verify.json, counts entries, matches and places and names what is wrong, what the
    artifact has beyond the ledger, and what a converter merged, with the reason. A file that was changed after the
    conversion is read all the same, so that the tensor can be named. CheckFailed where anything differs. UsageError
    where there is no int8 artifact, no ledger, or nothing to read the target's files with.
    """
    manifest = artifact.read(path, intact=False)
    run = run_of(path, run)
    if manifest.precision != "int8":
        raise UsageError(f"{path} is {manifest.precision}: only int8 artifacts have a ledger")
    found = compare_with_ledger(path, manifest, run)
    if found is None:
        raise UsageError(f"target {manifest.target} cannot read its files back")
    show.result(found, as_json, show_result)
    unkept = _note(run.verified, path, found)
    if not found["ok"]:
        raise CheckFailed("; ".join([f"{path}: {reason(found)}", *unkept]))
    if unkept:
        raise UsageError(unkept[0])
    return found


def compare_with_ledger(path: Path, manifest: Manifest, run: Run) -> dict[str, Any] | None:
    """The comparison itself, as `read_back` returns it, whether or not it holds; None where files are not read back."""
    target = load_target(manifest.target)
    files = target.quantized(path)
    if files is None:
        return None
    wanted = ledger.cut(ledger.read(run.ledger), manifest.tasks)
    result = ledger.compare_files(wanted, files)
    proof = overflow.prove_no_overflow(files)
    changed = artifact.changed(path, manifest)
    fits = wanted.sha256 == manifest.weights_sha256
    exact = proof.sums or wanted.scales != "power of two"
    return {
        "file": str(run.ledger),
        "digest": artifact.digest(manifest),
        "files": list(files),
        "entries": len(wanted.rows),
        "matches": len(result.equal),
        "places": sum(result.places.values()),
        "text": result.text,
        "wrong": result.wrong,
        "gone": result.merged,
        "unknown": result.unknown,
        "overflow": proof.text,
        "overflow_ok": exact,
        "needs": list(proof.needs),
        "stated_needs": list(manifest.needs),
        "changed": changed,
        "other_weights": not fits,
        "ok": result.ok and exact and proof.needs == manifest.needs and fits and not changed,
    }


def reason(found: dict[str, Any]) -> str:
    """Why a result of `check` is not ok, in one line: the tensors first, since they say where to look."""
    named = found["wrong"] | found["unknown"]
    parts = [found["text"]] + [f"{name}: {text}" for name, text in list(named.items())[:3]]
    if len(named) > 3:
        parts.append(f"and {len(named) - 3} more")
    if not found["overflow_ok"]:
        parts.append(f"{found['overflow']}: keep that layer float (compression.keep_float)")
    if found["needs"] != found["stated_needs"]:
        says, codes = (", ".join(found[key]) or "nothing" for key in ("stated_needs", "needs"))
        parts.append(f"the manifest says that it needs {says}, its codes need {codes}; convert again")
    if found["other_weights"]:
        parts.append(f"{found['file']} is the ledger of other weights than the artifact was made of; convert again")
    if found["changed"]:
        parts.append(f"changed after the conversion: {', '.join(found['changed'])}")
    return "; ".join(parts)


def show_result(found: dict[str, Any]) -> None:
    """Prints the count, whether anything can overflow, and each tensor that is wrong, unknown or merged, and why."""
    show.line(f"ledger: {found['text']}")
    show.line(f"codes: {found['overflow']}")
    for kind, key in (("WRONG", "wrong"), ("UNKNOWN", "unknown"), ("merged", "gone")):
        for name, text in found[key].items():
            show.line(f"  {kind} {name}: {text}")


def _note(file: Path, path: Path, found: dict[str, Any]) -> list[str]:
    """Keeps the result beside what a plain verify found for the same files; why not, where that fails."""
    name = path.resolve().name
    try:
        entry = read_entries(file).get(name, {})
    except UsageError as error:
        return [str(error)]
    if entry.get("digest") != found["digest"]:
        entry = {"artifact": str(path)}
    return keep(file, name, entry | {"ledger": found, "ok": found["ok"] and entry.get("ok", True)})
