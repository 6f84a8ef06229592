"""The result of a run as a text table with its verdict, and as result.json."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.document import Figure
from prealign_cpt.report.record import Model, Record, Scores
from prealign_cpt.report.verdict import MISSING, cell, coverage, less, verdict

NOTE = (
    "bpb: bits per UTF-8 byte of held-out text, lower is better; it does not depend on the tokenizer. General: "
    "held-out text from another domain. P@1: share of held-out lexicon words whose translation is the nearest "
    "candidate, higher is better."
)
"""What the table's columns mean."""


def columns(record: Record) -> tuple[str, ...]:
    """Headings of the table's figures."""
    language = record.language if len(record.language) <= 12 else "target"
    less_this = f"{record.ours.name} less this"
    return (f"{language} bpb", less_this, "English bpb", f"general {language}", "general English", "held-out P@1")


def figures(scores: Scores) -> tuple[Figure, ...]:
    """A model's figures, in the order of `columns` without the difference."""
    return (scores.target, scores.english, scores.general_target, scores.general_english, scores.retrieval)


def row(record: Record, model: Model) -> tuple[str, ...]:
    """A model's cells, in the order of `columns`."""
    target, *others = map(cell, figures(model.scores))
    gap = None if model is record.ours else less(record.ours, model)
    return (target, "" if gap is None else MISSING if isinstance(gap, Absent) else str(gap), *others)


def reasons(record: Record) -> list[str]:
    """Why figures of the table are absent: one line per reason, with the rows it leaves empty."""
    found: dict[str, list[str]] = {}
    for model in record.models:
        for value in figures(model.scores):
            if isinstance(value, Absent) and model.name not in found.setdefault(value.reason, []):
                found[value.reason].append(model.name)
    return [f"{'; '.join(rows)}: {reason}" for reason, rows in found.items()]


def text_table(record: Record) -> str:
    """The table, its reasons and the verdict, as plain text without a final line end."""
    rows = [("", *columns(record)), *((model.label, *row(record, model)) for model in record.models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([one[0].ljust(widths[0]), *(text.rjust(n) for text, n in zip(one[1:], widths[1:], strict=True))])
        for one in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines += [f"{MISSING} {reason}" for reason in reasons(record)]
    return "\n".join([*lines, "", *verdict(record), coverage(record), *(f"Caution: {c}." for c in record.cautions)])


def result(record: Record) -> dict[str, Any]:
    """The content of result.json: absent figures are null, with their reason under `NAME_absent`. Models go by their
    names in the report; `ours_less` has the differences with their intervals."""
    models = {model.name: model.scores for model in record.models}
    content: dict[str, Any] = {
        "labels": {model.name: model.label for model in record.models},
        "arms": _named((name, _pair(one.target, one.english)) for name, one in models.items()),
        "ours_less": _named((model.name, _gaps(record, model)) for model in record.models if model is not record.ours),
        "general": _named((name, _pair(one.general_target, one.general_english)) for name, one in models.items()),
        "fertility": _named(record.fertility.items()),
        "retrieval_heldout_p1": _named((name, one.retrieval) for name, one in models.items()),
        "unreachable_tokens": record.vocab.number("unreachable"),
        "english_lines_changed": record.english_changed,
        "stages": _named((name, _cost(stage.seconds, stage.peak_mb)) for name, stage in record.stages.items()),
        "tokens_per_second": record.tokens_per_second,
        "parity": record.serve.at("parity"),
        "verdict": verdict(record),
        "cautions": list(record.cautions),
    }
    return _named(content.items())


def as_json(content: dict[str, Any]) -> str:
    """The content of result.json as text."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _gaps(record: Record, model: Model) -> dict[str, Any]:
    found: list[tuple[str, Any]] = []
    for language in ("target", "english"):
        gap = less(record.ours, model, language)
        found.append(
            (language, gap if isinstance(gap, Absent) else {"mean": gap.mean, "low": gap.low, "high": gap.high})
        )
    return _named(found)


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
