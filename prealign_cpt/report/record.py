"""What the report knows of a run and its controls. Shapes: W windows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.document import Document, Figure

BASE, BEFORE, OURS = "base", "extended, before training", "ours"
"""Names of the models that are no control."""


@dataclass(frozen=True)
class Scores:
    """One model. Bits per byte of the test texts, of the second domain, and of the texts watched while training."""

    target: Figure
    english: Figure
    general_target: Figure
    general_english: Figure
    valid_target: Figure
    valid_english: Figure
    retrieval: Figure
    """P@1 of held-out lexicon words."""
    words: Figure
    """Of the retrieval: words asked."""
    windows: dict[str, NDArray[np.float64] | Absent]
    """By language, nats and bytes of each window of the test text, [W, 2]."""


@dataclass(frozen=True)
class Point:
    """A line of the training log that carries a validation."""

    step: int
    tokens: int
    text: float | None
    """Bytes of target text read, by the bytes per token of the vocabulary report."""
    target: float | None
    english: float | None


@dataclass(frozen=True)
class Model:
    """A row of the table: one name, one colour."""

    name: str
    label: str
    """What it is, in a few words."""
    style: int | None
    """Number of its colour; None: the base's grey."""
    scores: Scores
    curve: tuple[Point, ...] = ()
    curve_absent: str = ""


@dataclass(frozen=True)
class Stage:
    """What a stage cost."""

    seconds: Figure
    peak_mb: Figure


@dataclass(frozen=True)
class Record:
    """A run and its controls."""

    name: str
    language: str
    recipe: str | Absent
    """Text of the recipe, with defaults and flags."""
    base: Model
    before: Model | None
    """The extended model before training; None where the run does not extend."""
    ours: Model
    controls: tuple[Model, ...]
    kinds: tuple[str, ...]
    """Of the controls, "base" or how the rows were made."""
    cautions: tuple[str, ...]
    """A line for each control that is not the same training on as much text."""
    broken_lines: int
    """Lines of the training logs that are not JSON: a process died while it wrote them."""
    stages: dict[str, Stage]
    """Keys: the stages' folders."""
    tokens: Figure
    """Tokens of the continual pretraining."""
    tokens_per_second: Figure
    fertility: dict[str, Figure]
    """Tokens per word of the target text, `before` and `after` the vocabulary grew."""
    english_changed: Figure
    """Share of the English lines that are tokenized otherwise than before."""
    align: Document
    vocab: Document
    lexicon: Document
    data: Document
    serve: Document

    @property
    def models(self) -> tuple[Model, ...]:
        """The rows of the table, in their order."""
        return (self.base, *((self.before,) if self.before else ()), self.ours, *self.controls)
