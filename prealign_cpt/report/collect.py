"""Read the finished stages of a run, and of its controls, into one frozen record.

    RUN/*/report.json  MANIFEST.json  recipe.toml  metrics.jsonl  train/summary.json  serve/result.json --+--> Record
    CONTROL/{eval,data,align}/report.json  recipe.toml  metrics.jsonl                                 --+

A figure is a number or the reason why there is none. Nothing is carried over or filled in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from prealign_cpt.evaluate.exposure import exposure
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.table import unique
from prealign_cpt.report.document import Document, Figure, is_number, loads, read_document, read_recipe, reading
from prealign_cpt.run.errors import MissingInputError
from prealign_cpt.run.folder import ORDER
from prealign_cpt.run.manifest import NAME

BASE, BEFORE, OURS = "base", "extended, before training", "ours"
"""Names of the models that are no control."""

INITS = {"subword": "subword-mean", "mean": "all-at-the-mean"}
"""What the names of controls call some values of align.init; the others as they are."""

LANGUAGES = ("target", "english")

MAY_DIFFER = (
    *("name", "out", "evaluate.before_training", "train.composition_lr", "train.steps", "train.eval_every"),
    *("train.save_every", "train.save_at", "train.keep", "vocab.", "align.", "codeswitch.", "lexicon.", "serve."),
)
"""Beginnings of recipe keys in which a control may differ: they are what it is the control of, or follow from it.
Whether it read as much text is asked of its log."""

MOST_TEXT = 0.05
"""Share by which the text that a control read may differ from the run's."""


class Point(NamedTuple):
    """A line of the training log that carries a validation."""

    step: int
    tokens: int
    text: float | None
    """Bytes of target text read, by the bytes per token of the data report."""
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
    scores: Document
    """Its part of eval/report.json."""
    recipe: Document
    """Of the run that it belongs to."""
    kind: str = ""
    """"base" if trained without new tokens, else how the rows were made; empty if not trained."""
    curve: tuple[Point, ...] = ()
    curve_absent: str = ""
    broken_lines: int = 0
    """Lines of the training log that are not JSON: a process died while it wrote them."""

    def line(self, language: str, by_text: bool) -> list[tuple[float, float]]:
        """Validations of a language by bytes of target text read, else by training tokens."""
        points = ((p.text if by_text else p.tokens, getattr(p, language)) for p in self.curve)
        return [(x, y) for x, y in points if x is not None and y is not None]


@dataclass(frozen=True)
class Record:
    """A run and its controls."""

    name: str
    language: str
    base: Model
    before: Model | None
    """The extended model before training; None where the run does not extend."""
    ours: Model
    others: tuple[Model, ...]
    """Models of other runs, then those of the controls."""
    cautions: tuple[str, ...]
    """A line for each control that is not the same training on as much text."""
    costs: dict[str, dict[str, Figure]]
    """By stage: `seconds` and `peak_mb`."""
    fertility: dict[str, Figure]
    """Tokens per word of the target text, `before` and `after` the vocabulary grew."""
    english_changed: Figure
    """Share of the English lines that are tokenized otherwise than before."""
    documents: dict[str, Document]
    """What the stages say of themselves, `serve` among them."""
    exposure: dict[str, str]
    """What the training text shows of what zero-shot figures ask (evaluate/exposure.py)."""

    @property
    def trained(self) -> tuple[Model, ...]:
        """The run's own model and those beside it."""
        return (self.ours, *self.others)

    @property
    def models(self) -> tuple[Model, ...]:
        """The rows of the table, in their order."""
        return (self.base, *((self.before,) if self.before else ()), *self.trained)


def collect(run: Path, controls: Sequence[Path] = (), others: Sequence[Path] = ()) -> Record:
    """Read a run folder, those of its controls, and those of other runs beside it. Raises as `write_report`."""
    ours = _trained(run, recipe_name(run) if others else OURS)
    beside = [replace(_trained(path, recipe_name(path)), kind="another run") for path in others]
    beside += [_trained(path) for path in controls]
    names = unique([BASE, BEFORE, ours.name, *(model.name for model in beside)])[3:]
    labels = unique([model.label for model in beside])
    beside = [
        replace(model, name=name, label=label, style=style)
        for style, (model, name, label) in enumerate(zip(beside, names, labels, strict=True), start=1)
    ]
    documents = {stage: read_document(run, stage) for stage in ("lexicon", "vocab", "data", "align", "eval")}
    documents |= {
        "train": read_document(run, "train", "summary.json"),
        "serve": read_document(run, "serve", "result.json"),
    }
    abouts = {stage: read_document(run, stage, NAME).part("about") for stage in ORDER} | {"train": documents["train"]}
    base = Model(BASE, BASE, None, _scores(documents["eval"], "base"), ours.recipe)
    before = Model(BEFORE, BEFORE, None, _scores(documents["eval"], "aligned"), ours.recipe)
    return Record(
        name=recipe_name(run),
        language=ours.recipe.words("language") or "the target language",
        base=base,
        before=None if ours.kind == BASE else before,
        ours=ours,
        others=tuple(beside),
        cautions=tuple(f"{m.name}: {line}" for m in beside[len(others) :] for line in _differences(ours, m)),
        costs={stage: {key: about.number(key) for key in ("seconds", "peak_mb")} for stage, about in abouts.items()},
        fertility={when: _quotient(documents["vocab"], f"fertility_{when}") for when in ("before", "after")},
        english_changed=_quotient(documents["vocab"], "english_changed_share", "english_lines"),
        documents=documents,
        exposure=exposure(run),
    )


def recipe_name(run: Path) -> str:
    """What a run calls itself; a folder that is not there, or holds nothing of a run, is a `MissingInputError`."""
    if not run.is_dir():
        raise MissingInputError(f"{run}: no such run folder; give the folder that `prealign run` made")
    if not any((run / name).exists() for name in (*ORDER, "serve", "metrics.jsonl", "recipe.toml")):
        raise MissingInputError(f"{run}: holds no recipe, stage or log of a run; give the folder of a run")
    return read_recipe(run).words("name") or run.resolve().name


def _trained(run: Path, name: str = "") -> Model:
    """The trained model of a run, or of a control if it has no name."""
    recipe_name(run)
    whose, recipe = "" if name == OURS else f"{run.name}: ", read_recipe(run)
    kind = BASE if recipe.at("vocab", "size") == 0 else recipe.words("align", "init") or "other"
    rows = f"{INITS.get(kind, kind)} rows"
    if name:
        what = "the base's own tokens, trained" if kind == BASE else "extended, after training"
        label = f"{what} ({name})"
    elif kind == BASE:
        name, label = "base, trained", "not extended: the base's own tokens, same text"
    else:
        name, label = f"{rows}, trained", f"{rows}, same text"
    scores = _scores(read_document(run, "eval", whose=whose), "trained")
    return Model(name, label, 0, scores, recipe, kind, *_curve(run, whose, recipe))


def _scores(evaluation: Document, key: str) -> Document:
    models = evaluation.at("models")
    if key != "trained" and isinstance(models, dict) and not {key, f"{key}_absent"} & models.keys():
        reason = "models before training were not scored (recipe key evaluate.before_training)"
        return Document(evaluation.name, Absent(reason))
    scores = evaluation.part("models", key)
    if isinstance(scores.content, Absent) or {"general", "general_absent"} & scores.content.keys():
        return scores
    # A second domain is optional in a recipe: one reason for all models then, not one for each.
    return replace(scores, content=scores.content | {"general_absent": "no text of another domain was scored"})


def _curve(run: Path, whose: str, recipe: Document) -> tuple[tuple[Point, ...], str, int]:
    """The validations of the training log by step, the reason if there are none, and the number of broken lines."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return (), f"{whose}metrics.jsonl is not there", 0
    with reading(path, "check its permissions"):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    size, share = read_document(run, "data").number("target", "bytes_per_token"), recipe.number("data", "english_share")
    per_token = None if isinstance(share, Absent) or isinstance(size, Absent) else size * (1 - share)
    align = read_document(run, "align")
    parts = [align.number(part, "target_bytes") for part in ("calibration", "contrast_stage")]
    before = sum(part for part in parts if not isinstance(part, Absent))
    steps: dict[int, Any] = {}
    broken = 0
    for line in filter(str.strip, lines):
        try:
            entry = loads(line)
            # A run that restarts from a checkpoint logs some steps again; the later ones are those that led on.
            steps[int(entry["step"])] = entry
        except (ValueError, TypeError, KeyError):
            broken += 1
    points: list[Point] = []
    for step, entry in sorted(steps.items()):
        tokens = entry.get("tokens", 0 if step == 0 else None)
        valid = Document(path.name, entry).part("valid")
        scores = [None if isinstance(score := valid.number(f"{of}_bpb"), Absent) else score for of in LANGUAGES]
        if is_number(tokens) and any(score is not None for score in scores):
            text = None if per_token is None else before + tokens * per_token
            points.append(Point(step, int(tokens), text, *scores))
    return tuple(points), "" if points else f"{whose}metrics.jsonl holds no validation", broken


def _quotient(vocab: Document, key: str, size: str | None = None) -> Figure:
    """A quotient of the vocabulary report, which is 0.0 there if it was taken over nothing (`size` or itself is 0)."""
    return Absent(f"no text was measured for {key}") if vocab.number(size or key) == 0 else vocab.number(key)


def _differences(ours: Model, control: Model) -> list[str]:
    """Why a control's difference is not due to what it is the control of."""
    mine, theirs = dict(ours.recipe.leaves()), dict(control.recipe.leaves())
    changed = [
        f"{key} ({mine.get(key)!r}, there {theirs.get(key)!r})"
        for key in sorted(mine.keys() | theirs.keys())
        if mine and theirs and mine.get(key) != theirs.get(key) and not key.startswith(MAY_DIFFER)
    ]
    lines = [f"its recipe also differs in {', '.join(changed)}"] if changed else []
    read, other = (model.curve[-1].text if model.curve else None for model in (ours, control))
    if read and other is not None and abs(other / read - 1) > MOST_TEXT:
        lines.append(f"it read {abs(other / read - 1):.0%} {'more' if other > read else 'less'} text")
    return lines
