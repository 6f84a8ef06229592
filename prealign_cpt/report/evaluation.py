"""Read what `prealign eval` wrote, and whose it is: its models' digests say so, never the name of a folder.

DIR/MEASURE.json                             one subject   --+
DIR/NAME/MEASURE.json  DIR/comparison.json   several         +--> Evaluation --> figures.py
RUN/export, the run's base                                 --+
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.evaluate.compare import FORMAT, unique
from prealign_cpt.evaluate.figures import Result, from_json
from prealign_cpt.evaluate.results import Outcome, read_outcome
from prealign_cpt.evaluate.subject import base_folder, model_digest, tokenizer_digest
from prealign_cpt.evaluate.suite import MEASURES
from prealign_cpt.report.collect import BASE
from prealign_cpt.report.document import reading
from prealign_cpt.run.errors import DataError, MissingInputError

Digests = tuple[str, str]
"""SHA-256 of a model (weights and configuration) and of its tokenizer."""

AGAIN = "evaluate again, what is whole is kept"


@dataclass(frozen=True)
class Evaluation:
    """Measures of one or more models on the same data."""

    subjects: list[str]
    """Names; not empty."""
    outcomes: dict[str, dict[str, Outcome]]
    """By measure, of those that were measured, and subject."""
    differences: dict[str, dict[str, Result]]
    """By measure, figure and later subject: less the first subject, on the same items. Empty for one subject."""
    cautions: tuple[str, ...] = ()
    """A line for each subject that is none of the page's runs."""


def read_evaluation(folder: Path, runs: Mapping[str, Path]) -> Evaluation:
    """Read a folder of results. A subject has a run's name if it is the run's export, and only then.

    Args:
        runs: the run folders of the page by name.

    Raises:
        MissingInputError: no such folder, or no result in it.
        DataError: a result is damaged, or of another version of the format; or one subject's results are of several
            models. It is named.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give one that `prealign eval` wrote")
    order, differences = _comparison(folder / "comparison.json")
    if alone := _subject(folder):
        subjects, differences = {folder.resolve().name: alone}, {}
    else:
        names = order or sorted(path.name for path in folder.iterdir() if path.is_dir())
        subjects = {name: subject for name in names if (subject := _subject(folder / name))}
    if not subjects:
        raise MissingInputError(f"{folder}: holds no result; give a folder that `prealign eval` wrote")
    labels, cautions = _named({name: digests for name, (digests, _) in subjects.items()}, runs)
    renamed = {
        measure: {figure: {labels.get(n, n): gap for n, gap in gaps.items()} for figure, gaps in by_figure.items()}
        for measure, by_figure in differences.items()
    }
    outcomes = {
        measure: {labels[name]: them[measure] for name, (_, them) in subjects.items() if measure in them}
        for measure in MEASURES
    }
    return Evaluation(
        list(labels.values()), {measure: them for measure, them in outcomes.items() if them}, renamed, cautions
    )


def _subject(folder: Path) -> tuple[Digests, dict[str, Outcome]] | None:
    """The outcomes by measure, and the one model that they were made from; None if there is no outcome.

    Raises:
        DataError: they are damaged, were made from several models, or do not say from which.
    """
    outcomes: dict[str, Outcome] = {}
    models: dict[Digests, list[str]] = {}
    for measure in MEASURES:
        path = folder / f"{measure}.json"
        if path.is_file():
            outcome = read_outcome(folder, measure)
            if outcome is None:
                raise DataError(f"{path}: damaged, or of another version; {AGAIN}")
            outcomes[measure] = outcome
            with reading(path, "it does not say what it was made from: remove it and evaluate again"):
                about = json.loads(path.read_text(encoding="utf-8"))["made_from"]
                models.setdefault((about["model"], about["tokenizer"]), []).append(measure)
    if len(models) > 1:
        groups = " / ".join(", ".join(measures) for measures in models.values())
        raise DataError(
            f"{folder}: results of {len(models)} different models ({groups}); evaluate all measures again with one, "
            "or keep each model's in a folder of its own"
        )
    return (next(iter(models)), outcomes) if models else None


def _comparison(path: Path) -> tuple[list[str], dict[str, dict[str, Result]]]:
    if not path.is_file():
        return [], {}
    with reading(path, AGAIN):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: format {content['format']}, this program reads {FORMAT}; evaluate again")
        differences = {
            measure: {figure: from_json(gaps, f"{path}: {measure} {figure}") for figure, gaps in figures.items()}
            for measure, figures in content["differences"].items()
        }
        return [str(name) for name in content["subjects"]], differences


def _named(subjects: Mapping[str, Digests], runs: Mapping[str, Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What to call the subjects, by the names of their folders; a line for each that is no run's.

    The base beside a run needs no line: it is what the run is compared with.
    """
    exports = {name: _digests(run / "export") for name, run in runs.items()}
    unknown = [name for name, export in exports.items() if export is None]
    compared = any(digests in exports.values() for digests in subjects.values())
    labels: list[str] = []
    lines: dict[int, str] = {}
    for number, (name, digests) in enumerate(subjects.items()):
        owners = [run for run, export in exports.items() if export == digests]
        if owners:
            labels.append(name if name in owners else owners[0])
        elif extended := next((name for name, run in runs.items() if _base_digests(run) == digests), ""):
            labels.append(BASE)
            if not compared:
                lines[number] = f"figures of the base of {extended}, not of {extended} itself"
        elif unknown:
            labels.append(f"{name} (not checked)")
            what = "so nothing says whose figures these are; finish the run"
            lines[number] = f"{', '.join(unknown)} has no export, {what}"
        else:
            labels.append(f"{name} (another model)")
            what = f"figures of another model than the export of {' or '.join(runs)}"
            lines[number] = f"{what}; `prealign eval RUN` measures a run"
    labels = unique(labels)
    return dict(zip(subjects, labels, strict=True)), tuple(f"{labels[n]}: {line}." for n, line in lines.items())


def _digests(folder: Path) -> Digests | None:
    """As an evaluation has them (`Subject`); None where there is no whole model."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return None
    return model_digest(folder), tokenizer_digest(folder)


def _base_digests(run: Path) -> Digests | None:
    folder = base_folder(run) if (run / "recipe.toml").is_file() else None
    return _digests(folder) if folder else None
