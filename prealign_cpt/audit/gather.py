"""What the tasks of an audit found, put together.

task results, NAME.npz --gathered--> "texts", "sets", "pairs" of audit.json --exposure--> what stands beside figures
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prealign_cpt.audit.judge import Judge, Side
from prealign_cpt.audit.overlap import SHOWN, Sets
from prealign_cpt.audit.pairs import WINDOW, Pairs
from prealign_cpt.audit.read import FILE, MOST_FOREIGN
from prealign_cpt.audit.table import share
from prealign_cpt.evaluate.exposure import PAIRS
from prealign_cpt.recipe.schema import SIDES
from prealign_cpt.text.sources import Entry

Found = dict[str, tuple[str, Entry]]
"""By task, whose name begins with its source's: "english", "target" or "parallel", and what is read."""

TASK = FILE << 17
"""Place numbers of a task; those of the next one follow."""


def gathered(
    found: Found, results: Mapping[str, dict[str, Any]], scratch: Path, tests: Sets, pairs: Pairs,
    sets: Mapping[str, tuple[dict[str, Side], list[str]]],
) -> dict[str, Any]:  # fmt: skip
    """ "texts" by source, "sets" of test text by name, and "pairs".

    Args:
        sets: documents of each set of test text; those of the held-out sets are called after their side.
    """
    entries = [entry for _, entry in found.values()]

    def named(place: int) -> str:
        task, rest = divmod(int(place), TASK)
        file, document = divmod(rest, FILE)
        files = entries[task].files
        return f"{files[file] if files else entries[task].name}: document {document + 1:,}"

    texts: dict[str, Any] = {}
    met: dict[int, int] = {}
    places = [np.full(len(tests.sought.hashes), -1, dtype=np.int64) for _ in range(2)]
    for number, (name, result) in enumerate(results.items()):
        text = texts.setdefault(name.partition("/")[0], {"kind": found[name][0], "documents": 0, "bytes": 0})
        for key in ("documents", "bytes"):
            text[key] += result.get(key, 0)
        for label, (lines, tokens) in result["languages"].items():
            count = text.setdefault("languages", {}).setdefault(label, {"lines": 0, "tokens": 0})
            count["lines"], count["tokens"] = count["lines"] + lines, count["tokens"] + tokens
        worst = [[looked_for, tokens, place + number * TASK, *rest] for looked_for, tokens, place, *rest in
                 result["worst"]]  # fmt: skip
        text["worst"] = sorted(text.get("worst", []) + worst, reverse=True)[:MOST_FOREIGN]
        for pair, place in result["pairs"].items():
            met.setdefault(int(pair), place + number * TASK)
        with np.load(scratch / f"{name}.npz") as arrays:
            for of_all, own in zip(places, (arrays["grams"], arrays["whole"]), strict=True):
                new = (of_all < 0) & (own >= 0)
                of_all[new] = own[new] + number * TASK
    for text in texts.values():
        text["tokens"] = sum(count["tokens"] for count in text["languages"].values())
        text["worst"] = [
            {"tokens": tokens, "place": named(place), "language": label, "line": line}
            for _, tokens, place, label, line in text["worst"]
        ]
    figures = tests.figures(*places)
    for name, (sides, documents) in sets.items():
        figures[name]["places"] = [one | {"place": named(one["place"])} for one in figures[name]["places"]]
        if (side := name.partition("/")[0]) in SIDES:
            judge = Judge(sides[side])
            labels = Counter(judge(line) for document in documents for line in document.split("\n") if line.strip())
            figures[name]["languages"] = dict(labels.most_common())
    true = [number for number in sorted(met) if number < len(pairs.asked)]
    return {
        "texts": texts,
        "sets": figures,
        "pairs": {
            **{"asked": len(pairs.asked), "met": len(true), "met_by_chance": len(met) - len(true), "window": WINDOW},
            "places": [
                {"pair": " = ".join(pairs.asked[number]), "place": named(met[number])} for number in true[:SHOWN]
            ],
        },
    }


def exposure(report: Mapping[str, Any]) -> dict[str, str]:
    """What stands beside every figure that is called zero-shot, by name."""
    language, judged = report["language"], report["judged"]
    result = {}
    for kind, others, name in (
        ("english", judged["target"]["codes"], f"{language} in the English text"),
        ("target", ["en"], f"English in the {language} text"),
    ):
        texts = [text for text in report["texts"].values() if text["kind"] == kind]
        counts = [text["languages"][other] for text in texts for other in others if other in text["languages"]]
        lines, tokens = (sum(count[key] for count in counts) for key in ("lines", "tokens"))
        of_all = share(tokens, sum(text["tokens"] for text in texts))
        result[name] = f"{tokens:,} tokens ({of_all}), {lines:,} lines"
    if not judged["target"]["asked"] and set(judged["target"]["scripts"]) & set(judged["english"]["scripts"]):
        result = dict.fromkeys(result, f"not known: py3langid cannot tell {language}")
    if parallel := sum(text["tokens"] for text in report["texts"].values() if text["kind"] == "parallel"):
        result["parallel text"] = f"{parallel:,} tokens"
    pairs = report["pairs"]
    if pairs["asked"]:
        met = f"{pairs['met']:,} of {pairs['asked']:,}, {pairs['met_by_chance']:,} of as many wrong pairs"
        result[PAIRS] = met
    return result
