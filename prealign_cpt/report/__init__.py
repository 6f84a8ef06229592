"""What finished runs show: one table, result.json and a page that opens anywhere.

run folders, controls --collect----> Record     --table--> printed text, result.json
their weights         --rows-------> Rows       --+
`prealign eval`       --evaluation-> Evaluation --+-page, measures, charts, page.html.j2, style.css-> index.html
`prealign audit`      -------------> audit.json --+
trajectory, layers    --learned--> charts, tables --+
                                     Record     --+
"""

import json
from collections.abc import Sequence
from pathlib import Path

from prealign_cpt.evaluate.exposure import audit_of
from prealign_cpt.report.collect import collect
from prealign_cpt.report.evaluation import read_evaluation
from prealign_cpt.report.page import page
from prealign_cpt.report.rows import read_rows
from prealign_cpt.report.table import result, text_table
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
        others: further runs, whose models are shown beside the first's.
        evaluation: folder of `prealign eval`; by default `run/evaluation`, if it is there.
        out: folder to write to; by default `run/report`, for several runs `report`.

    Raises:
        MissingInputError: a folder is not there, or holds nothing of a run.
        DataError: a file of a stage is damaged; it is named.
        StorageError: the report cannot be written.
    """
    record = collect(run, controls, others)
    folders = {model.name: path for model, path in zip(record.trained, (run, *others, *controls), strict=True)}
    measured = None
    if evaluation is not None or (run / "evaluation").is_dir():
        exported = {name: path for name, path in folders.items() if path not in controls or (path / "export").is_dir()}
        measured = read_evaluation(evaluation or run / "evaluation", exported)
    html = page(run, record, read_rows(run), measured, audit_of(run))
    folder = out or (Path("report") if others else run / "report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    content = json.dumps(result(record), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(folder / "result.json", content + "\n")
    atomic_write(folder / "index.html", html)
    return "\n\n".join([text_table(record), *(f"Caution: {line}" for line in (measured.cautions if measured else ()))])
