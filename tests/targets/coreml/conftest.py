"""Packages of the toy network, converted once for all tests of the target."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from edgemtl.target import Original
from tests import toy

MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the toy's artifact in a precision, made when it is first asked for."""
    pytest.importorskip("coremltools")
    from edgemtl.targets.coreml import target

    made: dict[str, Path] = {}

    def folder(precision: str) -> Path:
        if precision not in made:
            place = made[precision] = tmp_path_factory.mktemp(precision)
            target.convert(
                Original(toy.deployed("int8" if precision == "int8" else "fp32"), toy.SIZE, toy.TASKS, precision), place
            )
        return made[precision]

    return folder


@pytest.fixture(scope="session")
def manifest() -> Any:
    return MANIFEST
