"""Raw rows to canonical pairs, with a reason for every row that is left out."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prealign_cpt.lexicon.pairs import COLUMNS, NO_PROBABILITY, Pair, Row, canonical, fault
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.languages import CONTENT_WORDS, FUNCTION_WORDS

MAX_WORDS = 5
"""On a side. Longer entries are definitions and sayings; no token should stand for them."""

MAX_CHARACTERS = 100
"""On a side; beyond the longest compounds."""

_MALFORMED = frozenset({COLUMNS, NO_PROBABILITY, "empty side", "lone surrogate", "control character"})
"""Reasons that say the file is not what it claims to be; the others are a matter of policy."""

_SPECIAL = re.compile(r"<[^>]+>")
"""What a tokenizer could take for `</s>`, `<|im_start|>` or the like."""

_SHOWN = 5


@dataclass(frozen=True)
class Dropped:
    """A row that gave no pair."""

    line: int
    reason: str
    text: str


def clean(
    rows: Iterable[Row], name: str, max_bad: float = 0.0, max_per_source: int | None = None
) -> tuple[list[Pair], list[Dropped]]:
    """Judge every row; each ends in exactly one of the two lists, both in the order of the rows.

    A pair is kept once, where it first stands. Source and target may be the same word. Case is kept. Invisible
    characters go, and no row for them.

    Args:
        name: what to call the file in messages.
        max_bad: largest share of malformed rows (wrong columns, an empty side, control characters). Rows that are
            well-formed but unwanted (duplicates, too long, no letters, ...) do not count.
        max_per_source: translations to keep for a source, the first ones; None keeps all.

    Raises:
        DataError: more malformed rows than `max_bad`, no pair left, or the columns look swapped.
    """
    pairs: dict[Pair, None] = {}
    per_source: Counter[str] = Counter()
    dropped: list[Dropped] = []
    for row in rows:
        pair = Pair(canonical(row.source), canonical(row.target), row.probability)
        reason = row.fault or _reason(row, pair)
        if not reason and pair in pairs:
            reason = "duplicate"
        if not reason and max_per_source is not None and per_source[pair.source] >= max_per_source:
            reason = "beyond the first translations"
        if reason:
            dropped.append(Dropped(row.line, reason, row.source if row.fault else f"{row.source}\t{row.target}"))
        else:
            pairs[pair] = None
            per_source[pair.source] += 1
    bad = [drop for drop in dropped if drop.reason in _MALFORMED]
    total = len(pairs) + len(dropped)
    if len(bad) > max_bad * total:
        first = "; ".join(f"{name}:{drop.line}: {drop.reason}" for drop in bad[:_SHOWN])
        raise DataError(
            f"{len(bad)} of {total} lines are malformed ({first}{'; ...' if len(bad) > _SHOWN else ''}); "
            "mend them: one pair a line, source TAB target, perhaps TAB probability, UTF-8; docs/lexicons.md has "
            "the other formats"
        )
    if not pairs:
        raise DataError(f"{name}: no pair is left of {total} lines; is the format right and the file complete?")
    _check_direction(list(pairs), name)
    return list(pairs), dropped


def _reason(row: Row, pair: Pair) -> str:
    sides = pair.source, pair.target
    for text in (row.source, row.target):
        if reason := fault(text):
            return reason
    if not all(sides):
        return "empty side"
    if pair.source.startswith("#"):
        return "begins like a comment"
    for side in sides:
        if not any(character.isalpha() for character in side):
            return "no letters"
        if _SPECIAL.search(side):
            return "looks like a special token"
        if side.count(" ") >= MAX_WORDS:
            return f"more than {MAX_WORDS} words"
        if len(side) > MAX_CHARACTERS:
            return f"more than {MAX_CHARACTERS} characters"
    return ""


def _check_direction(pairs: list[Pair], name: str) -> None:
    """Refuse a lexicon whose second column is the English one.

    English is recognised by common words, and by script where just one column is in Latin letters. A short list of
    rare words in a language of Latin script passes unseen.
    """
    sources = {pair.source.casefold() for pair in pairs}
    targets = {pair.target.casefold() for pair in pairs}
    common = FUNCTION_WORDS | CONTENT_WORDS
    # Some words are spelt alike elsewhere ("war", "die", "an"), so the target may hold a few of them.
    hits = len(targets & common), len(sources & common)
    words = hits[0] >= 4 and hits[0] > 3 * hits[1]
    scripts = _latin_share(targets) > 0.9 and _latin_share(sources) < 0.1
    if words or scripts:
        raise DataError(
            f"{name}: the columns look swapped ({hits[0]} common English words in the target column, {hits[1]} in the "
            "source column); English must come first: turn them with --swap (in a recipe lexicon.swapped = true), or "
            "leave that out where it is given"
        )


def _latin_share(texts: Iterable[str]) -> float:
    letters = [character for text in texts for character in text if character.isalpha()]
    latin = [c for c in letters if c < "\u0250" or unicodedata.name(c, "").startswith("LATIN")]
    return len(latin) / max(1, len(letters))
