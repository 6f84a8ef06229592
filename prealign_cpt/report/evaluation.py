"""Read what `prealign eval` wrote; owner.py says whose it is.

DIR/MEASURE.json                                 one subject   --+
DIR/NAME/MEASURE.json  DIR/comparison.json       several       --+--> Evaluation --> measured.py
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.evaluate.figures import Outcome, Result, from_json, read_outcome
from prealign_cpt.evaluate.suite import MEASURES
from prealign_cpt.evaluate.table import FORMAT
from prealign_cpt.report.owner import measured_from, named
from prealign_cpt.run.errors import DataError, MissingInputError

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Evaluation:
    """Measures of one or more models on the same data."""

    subjects: dict[str, dict[str, Outcome]]
    """By name and measure; not empty."""
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
    order, differences = _comparison(folder / COMPARISON)
    if _outcomes(folder):  # of one subject
        places, differences = {folder.resolve().name: folder}, {}
    else:
        names = order or sorted(path.name for path in folder.iterdir() if path.is_dir())
        places = {name: folder / name for name in names}
    found = {own: outcomes for own, place in places.items() if (outcomes := _outcomes(place))}
    if not found:
        raise MissingInputError(f"{folder}: holds no result; give a folder that `prealign eval` wrote")
    labels, cautions = named({own: measured_from(places[own], found[own]) for own in found}, runs)
    renamed = {
        measure: {
            figure: {labels.get(own, own): gap for own, gap in gaps.items()} for figure, gaps in by_figure.items()
        }
        for measure, by_figure in differences.items()
    }
    return Evaluation({labels[own]: outcomes for own, outcomes in found.items()}, renamed, cautions)


def _outcomes(folder: Path) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for measure in MEASURES:
        path = folder / f"{measure}.json"
        if not path.is_file():
            continue
        outcome = read_outcome(folder, measure)
        if outcome is None:
            raise DataError(f"{path}: damaged, or of another version; evaluate again, what is whole is kept")
        found[measure] = outcome
    return found


def _comparison(path: Path) -> tuple[list[str], dict[str, dict[str, Result]]]:
    if not path.is_file():
        return [], {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: format {content['format']}, this program reads {FORMAT}; evaluate again")
        differences = {
            measure: {figure: from_json(one, f"{path}: {measure} {figure}") for figure, one in figures.items()}
            for measure, figures in content["differences"].items()
        }
        return [str(name) for name in content["subjects"]], differences
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error!r}); evaluate again, what is whole is kept") from error
