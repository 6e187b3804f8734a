"""The model and the camera are opened at the same time, and neither is left behind by the other's failure."""

import threading
from typing import Any

import pytest

from edgemtl.device.play import beside
from edgemtl.ground.errors import CheckFailed, UsageError


class Opened:
    """A model or a source that notices when it is closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_they_open_at_the_same_time() -> None:
    both, model, source = threading.Barrier(2, timeout=60), Opened(), Opened()
    threads: list[threading.Thread] = []

    def open(what: Opened) -> Any:
        both.wait()  # for the other
        threads.append(threading.current_thread()) if what is source else None
        return what

    assert beside(lambda: open(model), lambda: open(source)) == (model, source)
    assert threads == [threading.main_thread()] and not source.is_closed


def test_a_source_is_closed_where_the_model_does_not_open() -> None:
    source = Opened()

    def model() -> Any:
        raise CheckFailed("fails its self-test")

    with pytest.raises(CheckFailed, match="fails its self-test"):
        beside(model, lambda: source)  # type: ignore[arg-type, return-value]
    assert source.is_closed


def test_where_both_fail_the_model_says_why() -> None:
    def fail(text: str) -> Any:
        raise UsageError(text)

    with pytest.raises(UsageError, match="no artifact"):
        beside(lambda: fail("no artifact"), lambda: fail("no camera"))
    with pytest.raises(UsageError, match="no camera"):
        beside(lambda: Opened(), lambda: fail("no camera"))  # type: ignore[arg-type, return-value]
