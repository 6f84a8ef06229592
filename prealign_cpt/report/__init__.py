"""What finished runs show: one table, result.json and a page that opens anywhere.

run folders, controls --collect----> Record     --table, verdict--> printed text, result.json
their weights         --rows-------> Rows       --+
`prealign eval`       --evaluation-> Evaluation --+   (owner: whose it is)
                                     Record     --+-page-> index.html
                                                     (text: learning, samples, measured, geometry, stages;
                                                      plots: plot, bars)
"""

from collections.abc import Sequence
from pathlib import Path

from prealign_cpt.evaluate.table import unique
from prealign_cpt.report.collect import collect, recipe_name
from prealign_cpt.report.evaluation import read_evaluation
from prealign_cpt.report.page import page
from prealign_cpt.report.record import OURS
from prealign_cpt.report.rows import read_rows
from prealign_cpt.report.table import as_json, result, text_table
from prealign_cpt.run.manifest import atomic_write, storage_error


def write_report(
    run: Path,
    controls: Sequence[Path] = (),
    others: Sequence[Path] = (),
    evaluation: Path | None = None,
    out: Path | None = None,
) -> str:
    """Write `index.html` and `result.json` anew; return the table to print.

    Args:
        run: a run folder. Stages that are not done yet leave their figures absent, with the reason.
        controls: run folders of controls: the same text without the method, or without new tokens.
        others: further runs, to be shown beside the first.
        evaluation: folder of `prealign eval`; by default `run/evaluation`, if it is there and the run is the only one.
        out: folder to write to; by default `run/report`, for several runs `report`.

    Raises:
        MissingInputError: a folder is not there, or holds nothing of a run.
        DataError: a file of a stage is damaged; it is named.
        StorageError: the report cannot be written.
    """
    runs = (run, *others)
    names = unique([recipe_name(one) for one in runs]) if others else [OURS]
    records = {
        name: collect(folder, controls, name, style, len(runs))
        for style, (name, folder) in enumerate(zip(names, runs, strict=True))
    }
    folders = dict(zip(names, runs, strict=True))
    rows = {name: read_rows(folder) for name, folder in folders.items()}
    measured = None
    if evaluation is not None or (not others and (run / "evaluation").is_dir()):
        known = zip((model.name for model in records[names[0]].controls), controls, strict=True)
        exported = {name: folder for name, folder in known if (folder / "export").is_dir()}
        measured = read_evaluation(evaluation or run / "evaluation", exported | folders)
    folder = out or (Path("report") if others else run / "report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    results = {name: result(record) for name, record in records.items()}
    atomic_write(folder / "result.json", as_json({"runs": results} if others else results[OURS]))
    atomic_write(folder / "index.html", page(records, rows, measured))
    tables = [f"{name}\n{text_table(record)}" if others else text_table(record) for name, record in records.items()]
    cautions = measured.cautions if measured else ()
    return "\n\n".join([*tables, *(f"Caution: {line}" for line in cautions)])
