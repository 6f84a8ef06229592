"""Where the training stands, for the person who watches: a bar on a terminal, elsewhere a line every half minute."""

import sys
import time

from tqdm import tqdm

from prealign_cpt.run.folder import say

EVERY = 30.0
"""Seconds between two lines, at least."""


class Progress:
    """Of the training, on the rank that shows it.

    Args:
        steps: of the whole run.
        done: of them before this start.
        active: whether this rank shows anything.
    """

    def __init__(self, steps: int, done: int, active: bool) -> None:
        self._steps = steps
        self._lines = active and not sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, desc="train", unit="step", disable=not active or self._lines)
        self._first: tuple[float, int] | None = None
        self._said = time.monotonic()

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """A step is done."""
        self._bar.update()
        self._bar.set_postfix_str(f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s")
        now = time.monotonic()
        if self._first is None:  # the first step compiles and warms up: the time that is left is told by the others
            self._first = now, step
        elif self._lines and now - self._said >= EVERY:
            self._said = now
            began, first = self._first
            left = duration((now - began) / (step - first) * (self._steps - step))
            say(f"train: step {step} of {self._steps}: loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s, {left} left")

    def close(self) -> None:
        """The last step is done."""
        self._bar.close()


def duration(seconds: float) -> str:
    """In the two largest units that tell something: 40 s, 12 min, 2 h 05 min, 3 d 04 h."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02} h"
