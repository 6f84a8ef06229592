"""Measure a bilingual lexicon: its size, how much running text it covers, how far an independent dictionary agrees.

    python benchmarks/lexicon_quality.py lexicon.tsv --text english.txt --against eng-deu.index --against-format dictd

Coverage is the share of running words that are a one-word entry, compared in NFC and case-folded and not reduced to a
base form: "houses" is covered only by an entry "houses". A word is a run of letters, inner hyphens and apostrophes
included. Content words are what is left without the closed word classes in `prealign_cpt.text.languages`.

Agreement is measured on the headwords that both dictionaries have: the share for which at least one translation
coincides. "loose" drops a leading "to" or article from both sides first and takes "ё" for "е". Two dictionaries list
different synonyms, so a disagreement is not an error; read the shown examples before judging.

The last line of the output is one JSON object.
"""

import argparse
import json
import random
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prealign_cpt.lexicon.clean import clean
from prealign_cpt.lexicon.formats import FORMATS, open_dictionary
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.run.errors import PrealignError
from prealign_cpt.text.languages import FUNCTION_WORDS
from prealign_cpt.text.lines import read_lines

# Combining marks and joiners belong to the word they stand in; `\w` alone would cut Indic words at every vowel sign.
_SEPARATORS = re.compile(r"[^\w\u0300-\u036f\u0900-\u0dff\u200c\u200d'-]+|[\d_]+")
_LEADING = re.compile(
    r"^(?:(?:to|an?|the|der|die|das|eine?|le|la|les|un|une|el|los|las|il|lo|gli|de|het) (?=\S)|l['’](?=\w))"
)


def words(line: str) -> list[str]:
    """The words of a line of text, in NFC, case-folded and with straight apostrophes."""
    text = unicodedata.normalize("NFC", line).casefold().replace("’", "'")
    pieces = (piece.strip("'-") for piece in _SEPARATORS.split(text))
    return [piece for piece in pieces if piece]


def coverage(path: Path, entries: set[str], function_words: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Share of the running words of a text that are in `entries`, with the commonest words that are not."""
    counts: Counter[str] = Counter()
    for _, line in read_lines(path):
        counts.update(words(line))
    content = {word: number for word, number in counts.items() if word not in function_words}
    missing = Counter({word: number for word, number in content.items() if word not in entries})
    result = {
        "tokens": counts.total(),
        "covered": _share(sum(number for word, number in counts.items() if word in entries), counts.total()),
        "missing": [word for word, _ in missing.most_common(20)],
    }
    if function_words:
        total = sum(content.values())
        result["content_tokens"] = total
        result["content_covered"] = _share(total - missing.total(), total)
    return result


def agreement(ours: list[Pair], theirs: list[Pair], loose: bool) -> dict[str, Any]:
    """How far two dictionaries agree on the headwords they share; disagreements are listed for reading."""
    left, right = _by_source(ours, loose), _by_source(theirs, loose)
    shared = sorted(left.keys() & right.keys())
    differ = [source for source in shared if not left[source] & right[source]]
    compared = sum(len(left[source]) for source in shared)
    found = sum(len(left[source] & right[source]) for source in shared)
    return {
        "shared_headwords": len(shared),
        "headwords_agreeing": _share(len(shared) - len(differ), len(shared)),
        "pairs_compared": compared,
        "pairs_found_there": _share(found, compared),
        "all_pairs_found_there": _share(found, sum(map(len, left.values()))),
        "disagreements": [(source, sorted(left[source]), sorted(right[source])) for source in differ],
    }


def _by_source(pairs: Iterable[Pair], loose: bool) -> dict[str, set[str]]:
    table: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        source, target = pair.source.casefold(), pair.target.casefold()
        if loose:
            source, target = _LEADING.sub("", source, count=1), _LEADING.sub("", target, count=1).replace("ё", "е")
        table[source].add(target)
    return table


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lexicon", type=Path, help="canonical lexicon file")
    parser.add_argument("--text", type=Path, required=True, help="English text, UTF-8")
    parser.add_argument("--target-text", type=Path, help="text in the target language, UTF-8")
    parser.add_argument("--against", type=Path, help="independent dictionary from English to the target language")
    parser.add_argument("--against-format", choices=FORMATS, default="auto")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N disagreements, drawn at random")
    arguments = parser.parse_args()

    pairs = read_pairs(arguments.lexicon)
    table = _by_source(pairs, loose=False)
    result: dict[str, Any] = {
        "lexicon": arguments.lexicon.name,
        "headwords": len(table),
        "pairs": len(pairs),
        "several_translations": _share(sum(len(targets) > 1 for targets in table.values()), len(table)),
        "english": coverage(arguments.text, set(table), FUNCTION_WORDS),
    }
    if arguments.target_text:
        result["target"] = coverage(arguments.target_text, {pair.target.casefold() for pair in pairs})
    if arguments.against:
        dictionary = open_dictionary(arguments.against, arguments.against_format)
        theirs, _ = clean(dictionary.rows, str(arguments.against), dictionary.max_bad)
        result["against"] = {"dictionary": arguments.against.name, "headwords": len({pair.source for pair in theirs})}
        for name, loose in (("exact", False), ("loose", True)):
            compared = agreement(pairs, theirs, loose)
            disagreements = compared.pop("disagreements")
            result["against"][name] = compared
        # Those of the loose comparison: the others differ at least in more than an article.
        for source, left, right in random.Random(0).sample(disagreements, min(arguments.show, len(disagreements))):
            print(f"{source}: {', '.join(left)} / {', '.join(right)}")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    try:
        main()
    except PrealignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
