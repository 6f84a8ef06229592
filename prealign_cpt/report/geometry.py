"""The page's section on the new rows: how near they are to English ones, and to which, before training and after."""

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.markup import Section, html_table, not_done
from prealign_cpt.report.rows import Neighbours, Rows
from prealign_cpt.report.verdict import MISSING

TITLE = "New tokens among English ones"


def geometry(rows: Rows | Absent) -> Section:
    """The section, or why there are no rows to show."""
    if isinstance(rows, Absent):
        return not_done(TITLE, rows.reason)
    summary = [
        ("tokens", *(f"{count:,}" for count in rows.counts)),
        ("median length of a row", *(f"{length:.3f}" for length in rows.lengths)),
        ("mean cosine to the nearest English token", *(f"{cosine:.3f}" for cosine in rows.nearest)),
    ]
    listed = [
        (
            f"{one.text} ({one.meaning})" if one.meaning else one.text,
            *map(_near, (one.neighbours, one.before)),
            one.row or MISSING,
        )
        for one in rows.listed
    ]
    when = "after training" if rows.model == "export" else "before training"
    head = ("new token (lexicon)", f"nearest English tokens, {when} (cosine)", "before training", "row made from")
    about = "A sample of new tokens of four letters or more that begin a word, frequent ones first"
    parts = [
        html_table(("", "English", "new"), summary),
        html_table(head, listed, about, kind="prose") if listed else "",
        '<p class="note">Input rows less the mean English row. Nearest by CSLS, which discounts English tokens '
        "that are near to everything. An input row is what the model reads, before any context: a word may be "
        "understood well although its row is near to its own spelling.</p>",
    ]
    return Section(TITLE, "\n".join(parts))


def _near(neighbours: Neighbours) -> str:
    return ", ".join(f"{text} {cosine:.2f}" for text, cosine in neighbours) or MISSING
