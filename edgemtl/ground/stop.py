"""Ctrl-C and SIGTERM as a question that work answers when it can."""

import signal
import threading
from types import FrameType
from typing import Any


class Stopped(Exception):
    """Work that was asked to stop broke off."""


class Stop:
    """While entered, the first SIGINT or SIGTERM only sets `asked`; a second one acts as usual."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self._usual: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._usual = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._usual[number])
