"""The result of a run as a text table with one sentence, and as result.json.

Differences are taken between figures as printed, so that a reader can check them with the table at hand.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.collect import ARMS, Record, Scores
from prealign_cpt.report.document import Figure

LABELS = {
    "base": "base",
    "mean": "mean rows",
    "static": "our static rows",
    "aligned": "after the contrastive stage",
    "final": "after CPT",
    "control": "control (plain subword-mean rows)",
}

DIGITS = 3
"""Decimals of bits per byte and of P@1: about what one seed and a few tens of kilobytes of text can tell."""

MISSING = "-"

NOTE = (
    "bpb: bits per UTF-8 byte of held-out text, lower is better; it does not depend on the tokenizer. General: "
    "held-out text from another domain. P@1: share of held-out lexicon words whose translation is the nearest "
    "candidate, higher is better."
)
"""What the table's columns mean."""


def columns(record: Record) -> tuple[str, ...]:
    """Headings of the table's figures."""
    language = record.language if len(record.language) <= 12 else "target"
    return (f"{language} bpb", "English bpb", f"general {language}", "general English", "held-out P@1")


def figures(scores: Scores) -> tuple[Figure, ...]:
    """An arm's figures, in the order of `columns`."""
    return (scores.target, scores.english, scores.general_target, scores.general_english, scores.retrieval)


def cell(value: Figure) -> str:
    """A figure as it stands in the table."""
    return MISSING if isinstance(value, Absent) else f"{value:.{DIGITS}f}"


def reasons(record: Record) -> list[str]:
    """Why figures of the table are absent: one line per reason, with the rows it leaves empty."""
    found: dict[str, list[str]] = {}
    for arm in ARMS:
        for value in figures(record.scores[arm]):
            if isinstance(value, Absent):
                rows = found.setdefault(value.reason, [])
                if LABELS[arm] not in rows:
                    rows.append(LABELS[arm])
    return [f"{', '.join(rows)}: {reason}" for reason, rows in found.items()]


def text_table(record: Record) -> str:
    """The table, its reasons and the verdict, as plain text without a final line end."""
    head = ("", *columns(record))
    rows = [(LABELS[arm], *(cell(value) for value in figures(record.scores[arm]))) for arm in ARMS]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (head, *rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines += [f"{MISSING} {reason}" for reason in reasons(record)]
    return "\n".join([*lines, "", verdict(record), *warning(record)])


def verdict(record: Record) -> str:
    """Whether the model after CPT beats control and base on the target test text, and what English lost."""
    final, control, base = (record.scores[arm] for arm in ("final", "control", "base"))
    if isinstance(final.target, Absent):
        return f"No verdict: {final.target.reason}."
    parts = [f"After CPT: {cell(final.target)} bits per byte of {record.language}"]
    for name, other in (("the control", control.target), ("the base", base.target)):
        parts.append(_against(final.target, name, other))
    return f"{', '.join(parts)}; {_english(final.english, base.english)}."


def warning(record: Record) -> list[str]:
    """One line if the control is not the same training, else nothing."""
    if not record.control_differs:
        return []
    return [
        f"Caution: the control's recipe also differs in {', '.join(record.control_differs)}, "
        "so the difference is not due to the method alone."
    ]


def result(record: Record) -> dict[str, Any]:
    """The content of result.json: absent figures are null, with their reason under `NAME_absent`."""
    scores = record.scores
    content: dict[str, Any] = {
        "arms": _named((arm, _pair(scores[arm].target, scores[arm].english)) for arm in ARMS),
        "general": _named((arm, _pair(scores[arm].general_target, scores[arm].general_english)) for arm in ARMS),
        "fertility": _named(record.fertility.items()),
        "retrieval_heldout_p1": _named((arm, scores[arm].retrieval) for arm in ARMS),
        "unreachable_tokens": record.vocab.number("unreachable"),
        "english_lines_changed": record.english_changed,
        "stages": _named((name, _cost(stage.seconds, stage.peak_mb)) for name, stage in record.stages.items()),
        "tokens_per_second": record.tokens_per_second,
        "parity": record.serve.at("parity"),
    }
    return _named(content.items())


def result_json(record: Record) -> str:
    """`result` as text."""
    return json.dumps(result(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def difference(value: float, other: float, digits: int = DIGITS) -> str:
    """`value` minus `other`, both as printed, with a sign."""
    gap = round(round(value, digits) - round(other, digits), digits)
    return f"{gap:+z.{digits}f}"


def _against(value: float, name: str, other: Figure) -> str:
    if isinstance(other, Absent):
        return f"not compared with {name} ({other.reason})"
    gap = round(value, DIGITS) - round(other, DIGITS)
    word = "as good as" if abs(gap) < 0.5 * 10**-DIGITS else "better than" if gap < 0 else "NOT better than"
    return f"{word} {name} {cell(other)} ({difference(value, other)})"


def _english(value: Figure, base: Figure) -> str:
    if isinstance(value, Absent):
        return f"English not measured ({value.reason})"
    if isinstance(base, Absent):
        return f"English {cell(value)}, not compared with the base ({base.reason})"
    gap = difference(value, base)
    word = {"+": "lost", "-": "gained"}[gap[0]] if float(gap) else "kept"
    return f"English {word}: {cell(value)} against {cell(base)} in the base ({gap})"


def _pair(target: Figure, english: Figure) -> dict[str, Any] | Absent:
    if isinstance(target, Absent) and isinstance(english, Absent):
        return target
    return _named((("target_bpb", target), ("english_bpb", english)))


def _cost(seconds: Figure, peak_mb: Figure) -> dict[str, Any] | Absent:
    if isinstance(seconds, Absent) and isinstance(peak_mb, Absent):
        return seconds
    return _named((("seconds", seconds), ("peak_mb", peak_mb)))


def _named(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in items:
        if isinstance(value, Absent):
            named |= {name: None, f"{name}_absent": value.reason}
        elif isinstance(value, Mapping):
            named[name] = {**value, **_unexplained(value)}
        else:
            named[name] = value
    return named


def _unexplained(value: Mapping[str, Any]) -> dict[str, str]:
    """Reasons for the nulls that other stages wrote without one."""
    return {
        f"{key}_absent": "not a finite number"
        for key, inner in value.items()
        if inner is None and f"{key}_absent" not in value
    }
