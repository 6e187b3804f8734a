"""A deployed folder's contents as a CycloneDX bill of materials, with the model card's figures. No torch here."""

import uuid
from pathlib import Path
from typing import Any

from edgemtl import __version__
from edgemtl.ground.files import read_json
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.run import Run, run_of

FILE = "bom.cdx.json"
SPEC = "1.6"
# Where a folder is not the run that its scores are of, the manifest still has those of the model it came from.
FLOAT_NOTE = "the float model, as the artifact's manifest says"


def bill(
    source: Path, manifest: Manifest, files: dict[str, dict[str, Any]], packages: tuple[str, ...]
) -> dict[str, Any]:
    """The bill of an artifact's deployed `files` (name -> sha256 and bytes) and of `packages`, such as "rich==15.0.0".

    The same folder gets the same bill: it has no time, and its serial number follows from its entries.
    """
    digest = artifact.digest(manifest)
    height, width = manifest.size
    run = run_of(source)
    properties = {
        "artifact": digest,
        "target": manifest.target,
        "precision": manifest.precision,
        "weights_sha256": manifest.weights_sha256,
        "exact_tasks": ", ".join(manifest.exact) or "none",
        **{f"toolchain:{name}": version for name, version in sorted(manifest.toolchain.items())},
    }
    model = {
        "bom-ref": "model",
        "type": "machine-learning-model",
        "name": manifest.recipe,
        "version": digest[:12],
        "description": f"{', '.join(manifest.tasks)} of one frame, {manifest.precision} for {manifest.target}",
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": ", ".join(manifest.tasks),
                "modelArchitecture": manifest.recipe,
                "datasets": [{"type": "dataset", "name": manifest.data.name}] if manifest.data else [],
                "inputs": [{"format": f"one frame, uint8 RGB, {height}x{width}, {manifest.fit}"}],
                "outputs": [{"format": name} for name in manifest.tasks],
            },
            "quantitativeAnalysis": {"performanceMetrics": _figures(run, source, manifest)},
        },
        "properties": [{"name": f"edgemtl:{name}", "value": value} for name, value in properties.items()],
    }
    parts: list[dict[str, Any]] = [
        {
            "bom-ref": f"file:{name}",
            "type": "file",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": about["sha256"]}],
        }
        for name, about in files.items()
    ]
    for package in packages:
        name, _, version = package.partition("==")
        purl = f"pkg:pypi/{name}" + (f"@{version}" if version else "")
        part = {"bom-ref": purl, "type": "library", "name": name, "purl": purl}
        parts.append(part | ({"version": version} if version else {}))
    listed = [model["bom-ref"], digest, *(part["bom-ref"] for part in parts), *(of["sha256"] for of in files.values())]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(map(str, listed)))}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "edgemtl", "version": __version__}]},
            "component": model,
        },
        "components": parts,
        "dependencies": [{"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _figures(run: Run, source: Path, manifest: Manifest) -> list[dict[str, str]]:
    """Every score that is known: of the artifact itself and of the float model where its run is at hand."""
    known: list[tuple[str, dict[str, dict[str, float | None]]]] = []
    if run.exists and run.scores.is_file():
        scores = read_json(run.scores)
        for name, words in ((source.resolve().name, "this artifact"), ("float", "the float model")):
            if entry := scores.get(name):
                known.append((f"{words}, {entry['frames']} frames of {entry['split']}", entry["tasks"]))
    if not known and manifest.scores:
        known = [(FLOAT_NOTE, manifest.scores)]
    return [
        {"type": f"{task}.{score}", "value": f"{value:.6g}", "slice": where}
        for where, tasks in known
        for task, of in tasks.items()
        for score, value in of.items()
        if value is not None
    ]
