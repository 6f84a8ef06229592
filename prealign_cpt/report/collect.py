"""Read the finished stages of a run, and of its controls, into one frozen record.

    RUN/{lexicon,vocab,align,data,eval}/report.json  --+
    RUN/cpt/summary.json  RUN/serve/result.json        +--> Record --> table.py, page.py
    RUN/metrics.jsonl  RUN/*/MANIFEST.json  recipe.toml |
    CONTROL/{eval,vocab}/report.json  metrics.jsonl    |
    CONTROL/recipe.toml                              --+

A figure is a number or the reason why there is none. Nothing is carried over or filled in.
Shapes: W windows.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.evaluate.table import unique
from prealign_cpt.report.document import Absent, Document, Figure, flat, read_document
from prealign_cpt.report.log import read_curve
from prealign_cpt.report.record import BASE, BEFORE, OURS, Model, Point, Record, Scores, Stage
from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.run.folder import ORDER
from prealign_cpt.run.manifest import NAME, read_manifest

INITS = {"subword": "subword-mean", "mean": "all-at-the-mean"}
"""What the names of controls call some values of align.init; the others as they are."""

_FREE_KEYS = (
    *("name", "out", "evaluate.before_training", "train.composition_lr"),
    *("train.steps", "train.eval_every", "train.save_every", "train.keep"),
)
_FREE_SECTIONS = ("vocab.", "align.", "codeswitch.", "lexicon.", "serve.")
"""Recipe keys in which a control may differ: they are what it is the control of, or follow from it. Whether it read as
much text is asked of its log."""

MOST_TEXT = 0.05
"""Share by which the text that a control read may differ from the run's."""


@dataclass(frozen=True)
class _Trained:
    """What is read of a run and of a control alike."""

    recipe: Document
    scores: Scores
    curve: tuple[Point, ...]
    curve_absent: str
    broken_lines: int

    @property
    def extended(self) -> bool:
        return self.recipe.at("vocab", "size") != 0


def collect(run: Path, controls: Sequence[Path] = (), name: str = OURS, style: int = 0, offset: int = 1) -> Record:
    """Read a run folder and those of its controls.

    Args:
        name, style: what the run's model is called, and its colour.
        offset: colour of the first control.

    Raises:
        MissingInputError: a folder is not there, or holds nothing of a run.
        DataError: a file is there but damaged; it is named.
    """
    for folder in controls:
        _check_folder(folder)
    align = read_document(run, "align", "report.json")
    own, others = _trained(run, ""), [_trained(folder, f"{folder.name}: ") for folder in controls]
    kinds = [_kind(one.recipe) for one in others]
    named = [_named(kind) for kind in kinds]
    labels = unique([label for _, label in named])
    base = _base(_scores(align, "arms", "base"), [own, *others])
    summary = read_document(run, "cpt", "summary.json")
    vocab = read_document(run, "vocab", "report.json")
    names = unique([BASE, BEFORE, name, *(short for short, _ in named)])[3:]
    own_label = f"extended, after training ({name})" if own.extended else f"the base's own tokens, trained ({name})"
    return Record(
        name=recipe_name(run),
        language=_text(own.recipe.at("language")) or "the target language",
        recipe=_recipe(run)[0],
        base=Model(BASE, BASE, None, base),
        before=Model(BEFORE, BEFORE, None, _scores(align, "arms", "aligned")) if own.extended else None,
        ours=Model(name, own_label, style, own.scores, own.curve, own.curve_absent),
        controls=tuple(
            Model(short, label, offset + number, one.scores, one.curve, one.curve_absent)
            for number, (short, label, one) in enumerate(zip(names, labels, others, strict=True))
        ),
        kinds=tuple(kinds),
        cautions=tuple(
            f"{short}: {line}" for short, one in zip(names, others, strict=True) for line in _differences(own, one)
        ),
        broken_lines=sum(one.broken_lines for one in (own, *others)),
        stages={stage: _stage(run / stage, stage, summary) for stage in ORDER},
        tokens=summary.number("tokens"),
        tokens_per_second=summary.number("tokens_per_second"),
        fertility={when: _measured(vocab, f"fertility_{when}") for when in ("before", "after")},
        english_changed=_measured(vocab, "english_changed_share", "english_lines"),
        align=align,
        vocab=vocab,
        lexicon=read_document(run, "lexicon", "report.json"),
        data=read_document(run, "data", "report.json"),
        serve=read_document(run, "serve", "result.json"),
    )


def recipe_name(run: Path) -> str:
    """What a run calls itself.

    Raises:
        MissingInputError: the folder is not there, or holds nothing of a run.
    """
    _check_folder(run)
    return _text(_recipe(run)[1].at("name")) or run.resolve().name


def _trained(run: Path, whose: str) -> _Trained:
    recipe = _recipe(run)[1]
    share, size = (
        recipe.number("data", "english_share"),
        read_document(run, "data", "report.json").number("target", "bytes_per_token"),
    )
    per_token = None if isinstance(share, Absent) or isinstance(size, Absent) else size * (1 - share)
    align = read_document(run, "align", "report.json")
    parts = [align.number(part, "target_bytes") for part in ("calibration", "contrast_stage")]
    before = sum(part for part in parts if not isinstance(part, Absent))
    final = read_document(run, "eval", "report.json", whose)
    return _Trained(recipe, _scores(final, "scores"), *read_curve(run, whose, per_token, before))


def _kind(recipe: Document) -> str:
    if recipe.at("vocab", "size") == 0:
        return BASE
    return _text(recipe.at("align", "init")) or "other"


def _named(kind: str) -> tuple[str, str]:
    """Name and label of a control."""
    if kind == BASE:
        return "base, trained", "not extended: the base's own tokens, same text"
    rows = f"{INITS.get(kind, kind)} rows"
    return f"{rows}, trained", f"{rows}, same text"


def _base(scores: Scores, runs: Sequence[_Trained]) -> Scores:
    """The base's scores; what the alignment stage did not score of it, the log of a run that does not extend has."""
    starts = [one.curve[0] for one in runs if not one.extended and one.curve and one.curve[0].step == 0]
    for point in starts[:1]:
        if isinstance(scores.valid_target, Absent) and point.target is not None:
            scores = replace(scores, valid_target=point.target)
        if isinstance(scores.valid_english, Absent) and point.english is not None:
            scores = replace(scores, valid_english=point.english)
    return scores


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such run folder; give the folder that `prealign run` made")
    if not any((folder / name).exists() for name in (*ORDER, "serve", "metrics.jsonl", "recipe.toml")):
        raise MissingInputError(f"{folder}: holds no recipe, stage or log of a run; give the folder of a run")


def _measured(vocab: Document, key: str, size: str | None = None) -> Figure:
    """A quotient of the vocabulary report, which is 0.0 there if it was taken over nothing (`size` or itself is 0)."""
    value, taken_over = vocab.number(key), vocab.number(size or key)
    return Absent(f"no text was measured for {key}") if taken_over == 0 else value


def _scores(document: Document, *keys: str) -> Scores:
    arm = document.at(*keys)
    if keys[:1] == ("arms",) and document.at("arms") == {}:
        none = Absent("arms before CPT were not scored (recipe key evaluate.before_training)")
        return Scores(none, none, none, none, none, none, none, none, {"target": none, "english": none})
    # A second domain is optional in a recipe: one reason for all arms then, not one for each.
    unscored = isinstance(arm, dict) and not {"general", "general_absent"} & arm.keys()

    def number(*rest: str) -> Figure:
        if unscored and rest[0] == "general":
            return Absent("no text of another domain was scored")
        return document.number(*keys, *rest)

    return Scores(
        target=number("test", "target_bpb"),
        english=number("test", "english_bpb"),
        general_target=number("general", "target_bpb"),
        general_english=number("general", "english_bpb"),
        valid_target=number("valid", "target_bpb"),
        valid_english=number("valid", "english_bpb"),
        retrieval=number("retrieval", "p1"),
        words=number("retrieval", "words"),
        windows={
            language: _windows(document, (*keys, "test", "windows", language)) for language in ("target", "english")
        },
    )


def _windows(document: Document, keys: tuple[str, ...]) -> NDArray[np.float64] | Absent:
    found = document.at(*keys)
    if isinstance(found, Absent):
        return found
    try:
        windows = np.array(found, dtype=np.float64)
        if windows.ndim == 2 and windows.shape[1] == 2 and len(windows) and np.isfinite(windows).all():
            return windows
    except (ValueError, TypeError):
        pass
    return Absent(f"{document.name}: {'.'.join(keys)} is no list of nats and bytes")


def _stage(folder: Path, name: str, summary: Document) -> Stage:
    if not folder.is_dir():
        reason = Absent(f"stage {name} has not been done")
        return Stage(reason, reason)
    if (folder / NAME).is_file():
        manifest = Document(f"{name}/{NAME}", read_manifest(folder))
    else:
        manifest = Document(f"{name}/{NAME}", Absent(f"{name}/{NAME} is not there"))
    costs = [summary.number(key) if name == "cpt" else manifest.number("about", key) for key in ("seconds", "peak_mb")]
    return Stage(*costs)


def _recipe(run: Path) -> tuple[str | Absent, Document]:
    path = run / "recipe.toml"
    if not path.is_file():
        absent = Absent("recipe.toml is not there")
        return absent, Document("recipe.toml", absent)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return text, Document("recipe.toml", tomllib.loads(text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as TOML ({error}); start the run again to have it written") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _differences(run: _Trained, control: _Trained) -> list[str]:
    """Why a control's difference is not due to what it is the control of."""
    if isinstance(run.recipe.content, Absent) or isinstance(control.recipe.content, Absent):
        return []
    mine, theirs = dict(flat(run.recipe.content)), dict(flat(control.recipe.content))
    changed = [
        f"{key} ({mine.get(key)!r}, there {theirs.get(key)!r})"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key) and key not in _FREE_KEYS and not key.startswith(_FREE_SECTIONS)
    ]
    lines = [f"its recipe also differs in {', '.join(changed)}"] if changed else []
    read, other = (one.curve[-1].text if one.curve else None for one in (run, control))
    if read and other is not None and abs(other / read - 1) > MOST_TEXT:
        lines.append(f"it read {abs(other / read - 1):.0%} {'more' if other > read else 'less'} text")
    return lines
