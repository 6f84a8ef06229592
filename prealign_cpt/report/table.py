"""The result of a run: its table, the differences with their intervals, sentences about them, and result.json.

Shapes: W windows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.statistics import Difference, paired_difference
from prealign_cpt.report.collect import BASE, LANGUAGES, Model, Record
from prealign_cpt.report.document import Document, Figure

MISSING = "-"

AGAINST = {
    BASE: "training the base on the same text without new tokens",
    "subword": "plain subword means on the same text",
}
"""What the controls are that a verdict wants; others go by their names."""

FIGURES = (("test", "target_bpb"), ("test", "english_bpb"), ("general", "target_bpb"), ("general", "english_bpb"),
           ("retrieval", "p1"))  # fmt: skip
"""A model's scores in the table, in the order of `columns` without the difference."""


def columns(record: Record) -> tuple[str, ...]:
    """Headings of the table's figures."""
    language = record.language if len(record.language) <= 12 else "target"
    less_this = f"{record.ours.name} less this"
    return (f"{language} bpb", less_this, "English bpb", f"general {language}", "general English", "held-out P@1")


def row(record: Record, model: Model) -> tuple[str, ...]:
    """A model's cells, in the order of `columns`."""
    target, *others = (cell(model.scores.number(*keys)) for keys in FIGURES)
    gap = "" if model is record.ours else less(record.ours, model)
    return (target, MISSING if isinstance(gap, Absent) else str(gap), *others)


def cell(value: Figure | None) -> str:
    """Bits per byte or P@1. Three decimals are about what one seed and a few tens of kilobytes of text can tell."""
    return MISSING if value is None or isinstance(value, Absent) else f"{value:.3f}"


def reasons(record: Record) -> list[str]:
    """Why figures of the table are absent: one line per reason, with the rows it leaves empty."""
    rows: dict[str, dict[str, None]] = {}
    for model in record.models:
        for keys in FIGURES:
            if isinstance(value := model.scores.number(*keys), Absent):
                rows.setdefault(value.reason, {})[model.name] = None
    return [f"{'; '.join(names)}: {reason}" for reason, names in rows.items()]


def text_table(record: Record) -> str:
    """The table, its reasons and the verdict, as plain text without a final line end."""
    rows = [("", *columns(record)), *((model.label, *row(record, model)) for model in record.models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([label.ljust(widths[0]), *(text.rjust(n) for text, n in zip(cells, widths[1:], strict=True))])
        for label, *cells in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines += [f"{MISSING} {reason}" for reason in reasons(record)]
    return "\n".join([*lines, "", *verdict(record), coverage(record), *(f"Caution: {c}." for c in record.cautions)])


def less(model: Model, other: Model, language: str = "target") -> Difference | Absent:
    """Bits per byte of one model less those of another on the test text, paired window by window."""
    mine_W2, theirs_W2 = _windows(model.scores, language), _windows(other.scores, language)
    if isinstance(mine_W2, Absent) or isinstance(theirs_W2, Absent):
        return mine_W2 if isinstance(mine_W2, Absent) else theirs_W2  # type: ignore[return-value]
    if not np.array_equal(mine_W2[:, 1], theirs_W2[:, 1]):
        return Absent(f"{other.name} was scored on other text")
    return paired_difference(mine_W2[None, :, 0], theirs_W2[None, :, 0], mine_W2[:, 1])


def verdict(record: Record) -> list[str]:
    """Sentences: against the base before training, against each control, English, tokens per word, what is missing."""
    ours = record.ours
    target = ours.scores.number("test", "target_bpb")
    if isinstance(target, Absent):
        return [f"No verdict: {target.reason}."]
    against = _against(ours, record.base, "the base before training")
    lines = [f"Held-out {record.language}: {cell(target)} bits per byte, {against}."]
    for control in record.others:
        line = _against(ours, control, AGAINST.get(control.kind, control.name))
        lines.append(f"{line[0].upper()}{line[1:]}.")
    lines.append(_english(record))
    before, after = (record.fertility[when] for when in ("before", "after"))
    if not isinstance(before, Absent) and not isinstance(after, Absent) and record.before:
        fewer = f"{abs(1 - after / before):.0%} {'fewer' if after <= before else 'more'}"
        lines.append(f"Tokens per word of {record.language}: {fewer}, {after:.2f} where the base has {before:.2f}.")
    given = {model.kind for model in record.others}
    wanted = [text for kind, text in AGAINST.items() if kind not in given and (kind != BASE or record.before)]
    if wanted:
        lines.append(f"Not compared with {' nor with '.join(wanted)}: `make evidence` adds that (or --control RUN).")
    return lines


def coverage(record: Record) -> str:
    """What the intervals cover, and how many words were asked."""
    windows_W2, words = _windows(record.ours.scores, "target"), record.ours.scores.number("retrieval", "words")
    count = "" if isinstance(windows_W2, Absent) else f" ({len(windows_W2)} windows of {record.language})"
    return (
        f"In brackets: 95 % t intervals of the difference, paired over the windows of the test text{count}. They cover "
        "which passages of such text were taken, not the training seed: another seed moves the difference too."
    ) + ("" if isinstance(words, Absent) else f" P@1 is over {words:,.0f} words; {exposed(record)}.")


def exposed(record: Record) -> str:
    """What the training text shows of what is asked zero-shot: held-out words, and transfer from English."""
    return "; ".join(f"{name}: {text}" for name, text in record.exposure.items())


def result(record: Record) -> dict[str, Any]:
    """The content of result.json: absent figures are null, with their reason under `NAME_absent`. Models go by their
    names in the report; `ours_less` has the differences with their intervals."""
    models = {model.name: model.scores for model in record.models}
    others = [model for model in record.models if model is not record.ours]
    content: dict[str, Any] = {
        "labels": {model.name: model.label for model in record.models},
        "models": {name: _pair(scores, "test") for name, scores in models.items()},
        "ours_less": {model.name: {of: less(record.ours, model, of) for of in LANGUAGES} for model in others},
        "general": {name: _pair(scores, "general") for name, scores in models.items()},
        "fertility": record.fertility,
        "retrieval_heldout_p1": {name: scores.number("retrieval", "p1") for name, scores in models.items()},
        "exposure": record.exposure,
        "unreachable_tokens": record.documents["vocab"].number("unreachable"),
        "english_lines_changed": record.english_changed,
        "stages": {stage: _whole(costs) for stage, costs in record.costs.items()},
        "tokens_per_second": record.documents["train"].number("tokens_per_second"),
        "parity": record.documents["serve"].at("parity"),
        "verdict": verdict(record),
        "cautions": list(record.cautions),
    }
    return _explained(content)


def _windows(scores: Document, language: str) -> NDArray[np.float64] | Absent:
    """Nats and bytes of each window of the test text, [W, 2]."""
    listed = scores.at("test", "windows", language)
    if isinstance(listed, Absent):
        return listed
    try:
        windows_W2 = np.array(listed, dtype=np.float64)
        if windows_W2.ndim == 2 and windows_W2.shape[1] == 2 and len(windows_W2) and np.isfinite(windows_W2).all():
            return windows_W2
    except (ValueError, TypeError):
        pass
    return Absent(f"{scores.name}: test.windows.{language} is no list of nats and bytes")


def _against(ours: Model, other: Model, what: str) -> str:
    """`better than X 2.353: -0.527 [-0.574, -0.480]`."""
    gap = less(ours, other)
    if isinstance(gap, Absent):
        return f"not compared with {what} ({gap.reason})"
    word = "not told apart from" if not gap.clear else "better than" if gap.mean < 0 else "worse than"
    return f"{word} {what} ({cell(other.scores.number('test', 'target_bpb'))}): {gap}"


def _english(record: Record) -> str:
    ours, base = (model.scores.number("test", "english_bpb") for model in (record.ours, record.base))
    gap = less(record.ours, record.base, "english")
    if isinstance(gap, Absent):
        return f"English {cell(ours)}, not compared with the base ({gap.reason})."
    word = "kept, not told apart from the base" if not gap.clear else "gained" if gap.mean < 0 else "lost"
    return f"English {word}: {cell(ours)} where the base has {cell(base)}: {gap}."


def _pair(scores: Document, text: str) -> dict[str, Figure] | Absent:
    return _whole({f"{language}_bpb": scores.number(text, f"{language}_bpb") for language in LANGUAGES})


def _whole(figures: dict[str, Figure]) -> dict[str, Figure] | Absent:
    """The figures, or one reason if all are absent."""
    absent = [value for value in figures.values() if isinstance(value, Absent)]
    return absent[0] if len(absent) == len(figures) else figures


def _explained(values: dict[str, Any]) -> dict[str, Any]:
    """The values with null for what is absent, and the reason under `NAME_absent`."""
    content: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or isinstance(value, Absent):
            content |= {name: None, f"{name}_absent": value.reason if value else "not a finite number"}
        elif isinstance(value, Difference):
            content[name] = {key: getattr(value, key) for key in ("mean", "low", "high")}
        else:
            content[name] = _explained(value) if isinstance(value, dict) else value
    return content
