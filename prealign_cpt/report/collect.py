"""Read the finished stages of a run, and of its control, into one frozen record.

    RUN/{lexicon,vocab,align,data,eval}/report.json  --+
    RUN/cpt/summary.json  RUN/serve/result.json        +--> Record --> table.py, page.py
    RUN/metrics.jsonl  RUN/*/MANIFEST.json  recipe.toml |
    RUN2/eval/report.json  metrics.jsonl  recipe.toml  --+

A figure is a number or the reason why there is none. Nothing is estimated, carried over or filled in.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign_cpt.errors import DataError, MissingInputError
from prealign_cpt.manifest import NAME, read_manifest
from prealign_cpt.report.document import Absent, Document, Figure, flat, is_number, loads, read_document
from prealign_cpt.run import ORDER

ALIGN_ARMS = ("base", "mean", "static", "aligned")
"""Arms that the alignment stage scores, from worst informed rows to best."""

ARMS = (*ALIGN_ARMS, "final", "control")

_FREE_KEYS = ("name", "out", "evaluate.arms", "train.composition_lr")
_FREE_SECTIONS = ("align.", "codeswitch.", "lexicon.")
"""Recipe keys in which a control may differ: they are what it is the control of."""


@dataclass(frozen=True)
class Scores:
    """One arm. Bits per byte of the test texts, of the second domain, and of the texts watched while training."""

    target: Figure
    english: Figure
    general_target: Figure
    general_english: Figure
    valid_target: Figure
    valid_english: Figure
    retrieval: Figure
    """P@1 of held-out lexicon words."""
    setting: tuple[Figure, Figure, Figure]
    """Of the retrieval: words asked, candidates to choose from, layer."""


@dataclass(frozen=True)
class Point:
    """A line of the training log that carries a validation."""

    step: int
    tokens: int
    target: float | None
    english: float | None


@dataclass(frozen=True)
class Stage:
    """What a stage cost."""

    seconds: Figure
    peak_mb: Figure
    version: str | Absent


@dataclass(frozen=True)
class Record:
    """A run and its control."""

    name: str
    language: str
    recipe: str | Absent
    """Text of the recipe, with defaults and flags."""
    scores: dict[str, Scores]
    """Keys: `ARMS`."""
    curve: tuple[Point, ...]
    control_curve: tuple[Point, ...]
    curve_absent: str
    control_curve_absent: str
    broken_lines: int
    """Lines of the training logs that are not JSON: a process died while it wrote them."""
    stages: dict[str, Stage]
    """Keys: the stages' folders."""
    tokens: Figure
    """Tokens of the continual pretraining."""
    tokens_per_second: Figure
    fertility: dict[str, Figure]
    """Tokens per word of the target text, `before` and `after` the vocabulary grew."""
    bytes_per_token: dict[str, Figure]
    english_changed: Figure
    """Share of the English lines that are tokenized otherwise than before."""
    align: Document
    vocab: Document
    lexicon: Document
    data: Document
    serve: Document
    control: Path | None
    control_differs: tuple[str, ...]
    """Recipe keys in which the control differs although it should not; empty as well if a recipe is absent."""


def collect(run: Path, control: Path | None = None) -> Record:
    """Read a run folder and, if given, that of its control.

    Raises:
        MissingInputError: a folder is not there, or holds nothing of a run.
        DataError: a file is there but damaged; it is named.
    """
    for folder in (run, control):
        if folder is not None:
            _check_folder(folder)
    align = read_document(run, "align", "report.json")
    final = read_document(run, "eval", "report.json")
    if control is None:
        other = Document("eval/report.json", Absent("no control run was given (--control)"))
    else:
        other = read_document(control, "eval", "report.json", "the control's ")
    scores = {arm: _scores(align, "arms", arm) for arm in ALIGN_ARMS}
    scores["final"] = _scores(final, "scores")
    scores["control"] = _scores(other, "scores")
    curve, absent, broken = _curve(run, "")
    control_curve, control_absent, control_broken = (
        _curve(control, "the control's ") if control else ((), "no control run was given (--control)", 0)
    )
    summary = read_document(run, "cpt", "summary.json")
    vocab = read_document(run, "vocab", "report.json")
    text, recipe = _recipe(run)
    return Record(
        name=_text(recipe.at("name")) or run.resolve().name,
        language=_text(recipe.at("language")) or "the target language",
        recipe=text,
        scores=scores,
        curve=curve,
        control_curve=control_curve,
        curve_absent=absent,
        control_curve_absent=control_absent,
        broken_lines=broken + control_broken,
        stages={name: _stage(run / name, name, summary) for name in ORDER},
        tokens=summary.number("tokens"),
        tokens_per_second=summary.number("tokens_per_second"),
        fertility={when: _measured(vocab, f"fertility_{when}") for when in ("before", "after")},
        bytes_per_token={when: _measured(vocab, f"bytes_per_token_{when}") for when in ("before", "after")},
        english_changed=_measured(vocab, "english_changed_share", "english_lines"),
        align=align,
        vocab=vocab,
        lexicon=read_document(run, "lexicon", "report.json"),
        data=read_document(run, "data", "report.json"),
        serve=read_document(run, "serve", "result.json"),
        control=control,
        control_differs=_differences(recipe, _recipe(control)[1]) if control else (),
    )


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
        none = Absent("arms before CPT were not scored (recipe key evaluate.arms)")
        return Scores(none, none, none, none, none, none, none, (none, none, none))
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
        setting=(number("retrieval", "words"), number("retrieval", "candidates"), number("retrieval", "layer")),
    )


def _curve(run: Path, whose: str) -> tuple[tuple[Point, ...], str, int]:
    """The validations of a training log by step, the reason if there are none, and the number of broken lines."""
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return (), f"{whose}metrics.jsonl is not there", 0
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error
    steps: dict[int, dict[str, Any]] = {}
    broken = 0
    for line in filter(str.strip, lines):
        try:
            entry = loads(line)
            # A run that restarts from a checkpoint logs some steps again; the later ones are those that led on.
            steps[int(entry["step"])] = entry
        except (ValueError, TypeError, KeyError):
            broken += 1
    points = tuple(point for step in sorted(steps) if (point := _point(step, steps[step])) is not None)
    return points, "" if points else f"{whose}metrics.jsonl holds no validation", broken


def _point(step: int, entry: dict[str, Any]) -> Point | None:
    valid, tokens = entry.get("valid"), entry.get("tokens", 0 if step == 0 else None)
    if not isinstance(valid, dict) or tokens is None or not is_number(tokens):
        return None
    target, english = (valid.get(key) if is_number(valid.get(key)) else None for key in ("target_bpb", "english_bpb"))
    return None if target is None and english is None else Point(step, int(tokens), target, english)


def _stage(folder: Path, name: str, summary: Document) -> Stage:
    if not folder.is_dir():
        reason = Absent(f"stage {name} has not been done")
        return Stage(reason, reason, reason)
    if (folder / NAME).is_file():
        manifest = Document(f"{name}/{NAME}", read_manifest(folder))
    else:
        manifest = Document(f"{name}/{NAME}", Absent(f"{name}/{NAME} is not there"))
    version = manifest.at("about", "version")
    costs = [summary.number(key) if name == "cpt" else manifest.number("about", key) for key in ("seconds", "peak_mb")]
    return Stage(costs[0], costs[1], version if isinstance(version, Absent) else str(version))


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


def _differences(recipe: Document, other: Document) -> tuple[str, ...]:
    if isinstance(recipe.content, Absent) or isinstance(other.content, Absent):
        return ()
    mine, theirs = dict(flat(recipe.content)), dict(flat(other.content))
    changed = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    return tuple(
        f"{key} ({mine.get(key)!r}, control {theirs.get(key)!r})"
        for key in changed
        if key not in _FREE_KEYS and not key.startswith(_FREE_SECTIONS)
    )
