"""Packages of the toy network, converted once for all tests of the target."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import toy

MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)


@pytest.fixture(scope="session")
def converted(converted: Callable[..., Path]) -> Callable[..., Path]:
    """The folder of the toy's artifact in a precision, made when it is first asked for."""
    return partial(converted, "coreml")


@pytest.fixture(scope="session")
def manifest() -> Any:
    return MANIFEST
