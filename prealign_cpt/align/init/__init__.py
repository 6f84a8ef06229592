"""Static rows for new tokens: old rows, token texts, a lexicon and text statistics in; input and output rows out.

texts ──► subword pieces ──┐
pairs ──► translations ────┼──► weights of old rows, sparse [M, V] ──► times each table ──┐
text ───► token vectors ───┴──► neighbours, or an orthogonal map ─────────────────────────┤
file ─────────────────────────────────────────────────────────────────────────────────────┴──► norm, shrink ──► rows
rows + hidden states of target text ──► calibrated to the tokens' frequencies

No row is ever random: a token that a method does not cover gets its subword mean, and one without pieces the mean of
all old rows; `StaticRows.provenance` tells which.
"""

from prealign_cpt.align.init.calibrate import calibrate
from prealign_cpt.align.init.rows import static_rows
from prealign_cpt.align.init.statistics import TextStatistics
from prealign_cpt.align.init.tables import StaticRows, old_tables, write_rows

__all__ = ["StaticRows", "TextStatistics", "calibrate", "old_tables", "static_rows", "write_rows"]
