"""Read what `prealign eval` wrote.

DIR/MEASURE.json                                 one subject   --+
DIR/NAME/MEASURE.json  DIR/comparison.json       several       --+--> Evaluation --> measured.py
"""

import json
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.errors import DataError, MissingInputError
from prealign_cpt.evaluate.compare import FORMAT
from prealign_cpt.evaluate.figures import Result, from_json
from prealign_cpt.evaluate.suite import MEASURES, Outcome, read_outcome

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Evaluation:
    """Measures of one or more models on the same data."""

    subjects: dict[str, dict[str, Outcome]]
    """By name and measure; not empty."""
    differences: dict[str, dict[str, Result]]
    """By measure, figure and later subject: less the first subject, on the same items. Empty for one subject."""


def read_evaluation(folder: Path, name: str) -> Evaluation:
    """Read a folder of results.

    Args:
        name: of the subject, if the folder holds the results of one.

    Raises:
        MissingInputError: no such folder, or no result in it.
        DataError: a result is damaged, or of another version of the format; it is named.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give one that `prealign eval` wrote")
    if own := _outcomes(folder):
        return Evaluation({name: own}, {})
    order, differences = _comparison(folder / COMPARISON)
    names = order or sorted(path.name for path in folder.iterdir() if path.is_dir())
    subjects = {name: found for name in names if (found := _outcomes(folder / name))}
    if not subjects:
        raise MissingInputError(f"{folder}: holds no result; give a folder that `prealign eval` wrote")
    return Evaluation(subjects, differences)


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
