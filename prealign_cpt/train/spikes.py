"""Loss spikes: a step whose gradient is far larger than those before it makes no update.

    gradient norm of each step --skips--> update | skip | NumericError

Skipping the batches of a spike instead of learning from them is the remedy of PaLM (arXiv 2204.02311, section 5.1).
"""

import statistics
from typing import Any

from prealign_cpt.run.errors import NumericError

FACTOR = 10.0
"""A gradient norm above so many times the running median is a spike."""

LEAST = 16
"""Norms that are known before the first judgement."""

WINDOW = 64
"""Newest norms that are remembered."""

MOST = 5
"""Skipped steps in a row at which training stops."""


class SpikeGuard:
    """The norms of the newest updates. Every rank keeps the same ones, so all ranks decide alike.

    Args:
        state: `state()` of an earlier guard; without it nothing is known yet.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.norms: list[float] = list(state["norms"]) if state else []
        self.in_a_row: int = state["in_a_row"] if state else 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to decide as this one would; JSON keeps it exactly."""
        return {"norms": self.norms, "in_a_row": self.in_a_row}

    def skips(self, norm: float, step: int) -> bool:
        """Whether a step must not update; a norm that is accepted is remembered.

        Args:
            norm: of the gradient before clipping, finite.
            step: for the message; the first is 1.

        Raises:
            NumericError: this is the fifth spike in a row, so it is no accident of one batch.
        """
        median = statistics.median(self.norms) if len(self.norms) >= LEAST else None
        if median is None or norm <= FACTOR * median:
            self.norms = [*self.norms, norm][-WINDOW:]
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        if self.in_a_row >= MOST:
            raise NumericError(
                f"step {step}: gradient norm {norm:.3g}, more than {FACTOR:g} times the median {median:.3g} of the "
                f"steps before, for the {MOST}th step in a row; none of them made an update. Start again under another "
                "name with a lower train.lr or a longer train.warmup, or look at the training text from this step on"
            )
        return True
