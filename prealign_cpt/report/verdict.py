"""What the figures say: differences with their intervals, and sentences about them."""

import numpy as np

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.statistics import Difference, paired_difference
from prealign_cpt.report.document import Figure
from prealign_cpt.report.record import BASE, Model, Record

DIGITS = 3
"""Decimals of bits per byte and of P@1: about what one seed and a few tens of kilobytes of text can tell."""

MISSING = "-"

AGAINST = {
    BASE: "training the base on the same text without new tokens",
    "subword": "plain subword means on the same text",
}
"""What the controls are that a verdict wants; others go by their names."""


def cell(value: Figure) -> str:
    """A figure as it stands in the table."""
    return MISSING if isinstance(value, Absent) else f"{value:.{DIGITS}f}"


def less(one: Model, other: Model, language: str = "target") -> Difference | Absent:
    """Bits per byte of one model less those of another on the test text, paired window by window."""
    mine, theirs = one.scores.windows[language], other.scores.windows[language]
    for windows in (mine, theirs):
        if isinstance(windows, Absent):
            return windows
    assert not isinstance(mine, Absent) and not isinstance(theirs, Absent)
    if not np.array_equal(mine[:, 1], theirs[:, 1]):
        return Absent(f"{other.name} was scored on other text")
    return paired_difference(mine[None, :, 0], theirs[None, :, 0], mine[:, 1])


def verdict(record: Record) -> list[str]:
    """Sentences: against the base before training, against each control, English, tokens per word, what is missing."""
    ours, base = record.ours, record.base
    if isinstance(ours.scores.target, Absent):
        return [f"No verdict: {ours.scores.target.reason}."]
    lines = [
        f"Held-out {record.language}: {cell(ours.scores.target)} bits per byte, "
        f"{_against(ours, base, 'the base before training')}."
    ]
    for control, kind in zip(record.controls, record.kinds, strict=True):
        line = _against(ours, control, AGAINST.get(kind, control.name))
        lines.append(f"{line[0].upper()}{line[1:]}.")
    lines.append(_english(record))
    before, after = (record.fertility[when] for when in ("before", "after"))
    if not isinstance(before, Absent) and not isinstance(after, Absent) and record.before:
        fewer = f"{abs(1 - after / before):.0%} {'fewer' if after <= before else 'more'}"
        lines.append(f"Tokens per word of {record.language}: {fewer}, {after:.2f} where the base has {before:.2f}.")
    wanted = [text for kind, text in AGAINST.items() if kind not in record.kinds and (kind != BASE or record.before)]
    if wanted:
        lines.append(f"Not compared with {' nor with '.join(wanted)}: `make evidence` adds that (or --control RUN).")
    return lines


def coverage(record: Record) -> str:
    """What the intervals cover, and how many words were asked."""
    windows, words = record.ours.scores.windows["target"], record.ours.scores.words
    count = "" if isinstance(windows, Absent) else f" ({len(windows)} windows of {record.language})"
    return (
        f"In brackets: 95 % t intervals of the difference, paired over the windows of the test text{count}. They cover "
        "which passages of such text were taken, not the training seed: another seed moves the difference too."
    ) + ("" if isinstance(words, Absent) else f" P@1 is over {words:,.0f} words.")


def _against(ours: Model, other: Model, what: str) -> str:
    """`better than X 2.353: -0.527 [-0.574, -0.480]`."""
    gap = less(ours, other)
    if isinstance(gap, Absent):
        return f"not compared with {what} ({gap.reason})"
    word = "not told apart from" if not gap.clear else "better than" if gap.mean < 0 else "worse than"
    return f"{word} {what} ({cell(other.scores.target)}): {gap}"


def _english(record: Record) -> str:
    ours, base = record.ours.scores.english, record.base.scores.english
    if isinstance(ours, Absent):
        return f"English not measured ({ours.reason})."
    gap = less(record.ours, record.base, "english")
    if isinstance(gap, Absent):
        return f"English {cell(ours)}, not compared with the base ({gap.reason})."
    word = "kept, not told apart from the base" if not gap.clear else "gained" if gap.mean < 0 else "lost"
    return f"English {word}: {cell(ours)} where the base has {cell(base)}: {gap}."
