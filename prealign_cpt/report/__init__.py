"""What a finished run shows: one table, result.json and a page that opens anywhere.

run folder, control's run folder --collect--> Record --table--> printed text, report/result.json
                                                     --page---> report/index.html (plots by plot.py)
"""

from pathlib import Path

from prealign_cpt.manifest import atomic_write, storage_error
from prealign_cpt.report.collect import collect
from prealign_cpt.report.page import page
from prealign_cpt.report.table import result_json, text_table


def write_report(run: Path, control: Path | None = None) -> str:
    """Write `run/report/index.html` and `run/report/result.json` anew; return the table to print.

    Args:
        run: a run folder. Stages that are not done yet leave their figures absent, with the reason.
        control: run folder of the control: the same training from subword-mean rows and without the lexicon.

    Raises:
        MissingInputError: a folder is not there, or holds nothing of a run.
        DataError: a file of a stage is damaged; it is named.
        StorageError: the report cannot be written.
    """
    record = collect(run, control)
    folder = run / "report"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    atomic_write(folder / "result.json", result_json(record))
    atomic_write(folder / "index.html", page(record))
    return text_table(record)
