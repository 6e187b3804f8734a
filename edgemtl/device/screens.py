"""Where an app's pictures go: a window, a browser, or nowhere but into a film."""

import time
from collections import deque
from concurrent.futures import Future, wait
from typing import Any

import cv2
import numpy as np

from edgemtl.device import capture
from edgemtl.device.camera import Source
from edgemtl.device.live import Clock, Film, View
from edgemtl.ground import show

WINDOW_TITLE = "edgemtl"


class Interactive:
    """What a window and a browser have in common: keys that are served while the next frame is inferred."""

    def __init__(self, clock: Clock, view: View, source: Source, film: Film) -> None:
        self.clock, self.view, self.source, self.film = clock, view, source, film
        self.keys: deque[str] = deque()

    def show(self, picture: np.ndarray) -> None:
        """Shows a picture."""
        raise NotImplementedError

    def poll(self) -> None:
        """Adds what was typed to `keys`; "q" where the user has gone."""
        raise NotImplementedError

    def wait(self, pending: Future[Any]) -> bool:
        """Serves the keys until `pending` is done and nothing is paused; False when the user quits."""
        paused = silent = False
        while True:
            self.poll()
            while self.keys:
                key = self.keys.popleft()
                if key == "q":
                    return False
                if key == " ":
                    paused = not paused
                    self.clock.pause()
                elif key == "r":
                    self._say(self.film.toggle())
                elif (picture := self.view.press(key)) is not None:
                    self.show(picture)
            if not silent and self.source.live and self.source.stalled > capture.STALL_S:
                silent = True
                self._say(f"no picture from {self.source.name}; waiting for it")
            if not paused and pending.done():
                if silent:
                    self.view.note = ""
                return True
            wait([pending], timeout=0.02) if not paused else time.sleep(0.02)

    def _say(self, text: str) -> None:
        self.view.note = text
        if (picture := self.view.again()) is not None:
            self.show(picture)


class Window(Interactive):
    """The picture on the screen, and the keys pressed there."""

    def __init__(self, clock: Clock, view: View, source: Source, film: Film) -> None:
        super().__init__(clock, view, source, film)
        self.opened = False

    def __enter__(self) -> "Window":
        cv2.namedWindow(WINDOW_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.setMouseCallback(WINDOW_TITLE, self._mouse)
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def show(self, picture: np.ndarray) -> None:
        """Puts the picture on the screen."""
        if not self.opened:
            cv2.resizeWindow(WINDOW_TITLE, picture.shape[1], picture.shape[0])
            self.opened = True
        cv2.imshow(WINDOW_TITLE, np.ascontiguousarray(picture[..., ::-1]))
        self._typed(cv2.waitKey(1))  # draws; a key pressed meanwhile is served later

    def poll(self) -> None:
        """Takes the keys typed since; closing the window is one, too."""
        if not self.keys:
            self._typed(cv2.waitKey(1))
        if self.opened and cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self.keys.append("q")

    def _typed(self, code: int) -> None:
        if code & 0xFF != 255:
            self.keys.append("q" if code & 0xFF == 27 else chr(code & 0xFF))

    def _mouse(self, event: int, x: int, y: int, *_: object) -> None:
        if event == cv2.EVENT_LBUTTONDOWN:
            self.view.click(x, y)
        elif event == cv2.EVENT_MOUSEMOVE:
            self.view.note = self.view.point(x, y)


class Terminal:
    """Progress where there is no window."""

    def __init__(self, clock: Clock, length: int | None) -> None:
        self.clock, self.bar = clock, show.progress()
        self.task = self.bar.add_task("frames", total=length, status="")

    def __enter__(self) -> "Terminal":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, picture: np.ndarray) -> None:
        """Counts the picture."""
        self.bar.update(self.task, advance=1, status=self.clock.reading())

    def wait(self, pending: Future[Any]) -> bool:
        """True; the loop waits by itself, since nobody presses keys."""
        return True
