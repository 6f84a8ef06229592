"""The page's section on the new rows: where they lie among the English ones, and which English tokens are near."""

from html import escape

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.markup import Section, details, html_table, missing, not_done
from prealign_cpt.report.rows import Rows
from prealign_cpt.report.scatter import scatter
from prealign_cpt.report.verdict import MISSING

TITLE = "New tokens among English ones"


def geometry(rows: Rows | Absent) -> Section:
    """The section, or why there are no rows to show."""
    if isinstance(rows, Absent):
        return not_done(TITLE, rows.reason)
    clouds = [
        ("English tokens", [(spot.text, spot.x, spot.y) for spot in rows.english]),
        ("new tokens", [(spot.text, spot.x, spot.y) for spot in rows.new]),
    ]
    label = "Embeddings of English and of new tokens, projected to two dimensions; the table below sums them up"
    first, second = rows.explained
    note = (
        f"Input rows of {rows.model}, less the mean English row, at length 1: their two principal components, "
        f"with {first:.1%} and {second:.1%} of the variance. Clouds that lie apart "
        "here do lie apart; those that lie together here may still be apart in other dimensions."
    )
    summary = [
        ("tokens", f"{rows.counts[0]:,}", f"{rows.counts[1]:,}"),
        ("median length of a row", *(f"{length:.3f}" for length in rows.lengths)),
        ("mean cosine to the nearest English token", *(f"{cosine:.3f}" for cosine in rows.nearest)),
        ("middle of the plot, across", *(_middle([spot.x for spot in cloud]) for cloud in (rows.english, rows.new))),
        ("middle of the plot, up", *(_middle([spot.y for spot in cloud]) for cloud in (rows.english, rows.new))),
    ]
    listed = [
        (
            f"{one.text} ({one.meaning})" if one.meaning else one.text,
            _near(one.neighbours),
            _near(one.before),
            one.row or MISSING,
        )
        for one in rows.listed
    ]
    when = "after training" if rows.model == "export" else "before training"
    words = (
        html_table(
            (
                "new token (lexicon)",
                f"nearest English tokens, {when} (cosine)",
                "before training",
                "row made from",
            ),
            listed,
            "A sample of new tokens of four letters or more that begin a word, frequent ones first",
            kind="prose",
        )
        if listed
        else missing("no new token of four letters or more begins a word")
    )
    drawn = f"<figure><h3>Two principal components</h3>{scatter(clouds, label)}</figure>"
    parts = [
        f'<div class="pair">{drawn}<div>{html_table(("", "English", "new"), summary, "The same in numbers")}'
        f'<p class="note">{escape(note)}</p></div></div>',
        details("Nearest English tokens of new tokens", words),
        '<p class="note">Nearest by CSLS, which discounts English tokens that are near to everything. An input '
        "row is what the model reads, before any context: a word may be understood well although its row is near "
        "to its own spelling.</p>",
    ]
    return Section(TITLE, "\n".join(parts))


def _middle(values: list[float]) -> str:
    return f"{sum(values) / len(values):+.3f}" if values else MISSING


def _near(neighbours: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{text} {cosine:.2f}" for text, cosine in neighbours) or MISSING
