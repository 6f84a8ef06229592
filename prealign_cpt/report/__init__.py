"""What finished runs show: one table, result.json and a page that opens anywhere.

run folders, control --collect-----> Record     --table--> printed text, result.json
their weights        --rows--------> Rows       --+
`prealign eval`      --evaluation--> Evaluation --+   (owner: whose it is)
                                      Record    --+-page-> index.html
                                                    (text: contents, learning, measured, geometry, stages;
                                                     plots: plot, bars, heat, scatter)
"""

import json
from collections.abc import Sequence
from pathlib import Path

from prealign_cpt.evaluate.compare import unique
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.manifest import atomic_write, storage_error
from prealign_cpt.report.collect import collect
from prealign_cpt.report.evaluation import Evaluation, read_evaluation
from prealign_cpt.report.page import page
from prealign_cpt.report.rows import read_rows
from prealign_cpt.report.table import result, result_json, text_table

NOT_EVALUATED = "nothing was evaluated: `prealign eval RUN` measures words, sentences, transfer and more (--eval DIR)"


def write_report(
    run: Path,
    control: Path | None = None,
    others: Sequence[Path] = (),
    evaluation: Path | None = None,
    out: Path | None = None,
) -> str:
    """Write `index.html` and `result.json` anew; return the table to print.

    Args:
        run: a run folder. Stages that are not done yet leave their figures absent, with the reason.
        control: run folder of the control: the same text without the method.
        others: further runs, to be shown beside the first.
        evaluation: folder of `prealign eval`; by default `run/evaluation`, if it is there and the run is the only one.
        out: folder to write to; by default `run/report`, for several runs `report`.

    Raises:
        MissingInputError: a folder is not there, or holds nothing of a run.
        DataError: a file of a stage is damaged; it is named.
        StorageError: the report cannot be written.
    """
    found = [collect(one, control) for one in (run, *others)]
    records = dict(zip(unique([one.name for one in found]), found, strict=True))
    folders = dict(zip(records, (run, *others), strict=True))
    rows = {name: read_rows(folder) for name, folder in folders.items()}
    measured: Evaluation | Absent
    if evaluation is not None or (not others and (run / "evaluation").is_dir()):
        known = {"control": control} if control and (control / "export").is_dir() else {}
        measured = read_evaluation(evaluation or run / "evaluation", known | folders)
    else:
        measured = Absent(NOT_EVALUATED)
    folder = out or (Path("report") if others else run / "report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    if others:
        content = {"runs": {name: result(record) for name, record in records.items()}}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        text = result_json(found[0])
    atomic_write(folder / "result.json", text)
    atomic_write(folder / "index.html", page(records, rows, measured))
    tables = [text_table(record) for record in found]
    if others:
        tables = [f"{name}\n{one}" for name, one in zip(records, tables, strict=True)]
    cautions = () if isinstance(measured, Absent) else measured.cautions
    return "\n\n".join([*tables, *(f"Caution: {line}" for line in cautions)])
