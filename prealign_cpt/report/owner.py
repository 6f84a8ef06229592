"""Whose results an evaluation holds: its models' digests say so, never the name of a folder.

DIR/MEASURE.json made_from  --+
RUN/export, the run's base  --+--named--> what to call each subject on the page, and lines of caution
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from prealign_cpt.evaluate.subject import base_folder, model_digest, tokenizer_digest
from prealign_cpt.evaluate.table import unique
from prealign_cpt.report.record import BASE
from prealign_cpt.run.errors import DataError

Digests = tuple[str, str]
"""SHA-256 of a model (weights and configuration) and of its tokenizer."""


def named(subjects: Mapping[str, Digests], runs: Mapping[str, Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What to call the subjects of an evaluation, by the names that it gives them; a line for each that is no run's.

    A subject has a run's name only if it is the run's export. The base beside a run needs no line: it is what the run
    is compared with.

    Args:
        runs: the run folders of the page by name.
    """
    exports = {name: digests_of(run / "export") for name, run in runs.items()}
    unknown = [name for name, found in exports.items() if found is None]
    compared = any(found in exports.values() for found in subjects.values())
    labels: list[str] = []
    lines: list[tuple[int, str]] = []
    for number, (own, found) in enumerate(subjects.items()):
        owners = [name for name, export in exports.items() if export == found]
        if owners:
            labels.append(own if own in owners else owners[0])
            continue
        extended = next((name for name, run in runs.items() if _base(run) == found), "")
        if extended:
            labels.append(BASE)
            if compared:
                continue
            line = f"figures of the base of {extended}, not of {extended} itself"
        elif unknown:
            labels.append(f"{own} (not checked)")
            line = f"{', '.join(unknown)} has no export, so nothing says whose figures these are; finish the run"
        else:
            labels.append(f"{own} (another model)")
            line = (
                f"figures of another model than the export of {' or '.join(runs)}; `prealign eval RUN` measures a run"
            )
        lines.append((number, line))
    labels = unique(labels)
    return dict(zip(subjects, labels, strict=True)), tuple(f"{labels[number]}: {line}." for number, line in lines)


def measured_from(folder: Path, measures: Iterable[str]) -> Digests:
    """The one model that a folder's results were made from.

    Raises:
        DataError: they were made from several, or do not say from which.
    """
    found: dict[Digests, list[str]] = {}
    for measure in measures:
        path = folder / f"{measure}.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))["made_from"]
            found.setdefault((about["model"], about["tokenizer"]), []).append(measure)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: does not say what it was made from; remove it and evaluate again") from error
    if len(found) > 1:
        groups = " / ".join(", ".join(names) for names in found.values())
        raise DataError(
            f"{folder}: results of {len(found)} different models ({groups}); evaluate all measures again with one, or "
            "keep each model's in a folder of its own"
        )
    return next(iter(found))


def digests_of(folder: Path) -> Digests | None:
    """As an evaluation has them (`Subject`); None where there is no whole model."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return None
    return model_digest(folder), tokenizer_digest(folder)


def _base(run: Path) -> Digests | None:
    folder = base_folder(run) if (run / "recipe.toml").is_file() else None
    return digests_of(folder) if folder else None
