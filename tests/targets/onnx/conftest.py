"""What the tests of the forms share: an artifact's files."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(converted: Callable[..., Path]) -> Path:
    """An int8 artifact's files, of a network with depthwise, narrow and wide convolutions."""
    return converted("onnx")
