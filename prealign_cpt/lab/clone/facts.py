"""Invented facts for cross-lingual knowledge application (CLKA; PreAlign, arXiv 2407.16222).

    "Zavuno lives in Paris."   in training text of one language, of both, or of none
    "To visit Zavuno, you must travel to"   asked in both languages, with every place as a candidate

Subjects are names that occur in no text, so nothing but the statements can be known about them. A question's wording
is never that of a statement. "neutral" is the question without its subject, to take the candidates' own likelihood out.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from prealign_cpt.evaluate.data import GROUPS
from prealign_cpt.run.errors import RecipeError

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Relation:
    """Two statements and one question over subject {s} and object {o}, and the objects."""

    statements: tuple[str, str]
    question: str
    objects: tuple[str, ...]


def _relation(first: str, second: str, question: str, objects: str) -> Relation:
    return Relation((first, second), question, tuple(objects.split()))


RELATIONS = (
    _relation(
        "{s} lives in {o}.",
        "The house of {s} stands in {o}.",
        "To visit {s}, you must travel to",
        "Paris London Rome Berlin Madrid Vienna Athens Moscow Dublin Cairo Tokyo Boston Chicago Lisbon Prague Warsaw "
        "Oslo Geneva Venice Jerusalem",
    ),
    _relation(
        "{s} was born in {o}.",
        "The parents of {s} came from {o}.",
        "The native country of {s} is",
        "France Spain Italy Germany Russia China India Japan Egypt Greece Turkey Poland Brazil Mexico Canada Sweden "
        "Norway Portugal Ireland Australia",
    ),
    _relation(
        "{s} works as a {o}.",
        "Every day {s} is busy as a {o}.",
        "People who know the trade of {s} say this is a good",
        "baker doctor teacher farmer soldier sailor priest judge lawyer painter tailor butcher hunter miner nurse "
        "banker driver singer writer shepherd",
    ),
    _relation(
        "{s} keeps a {o}.",
        "In the yard of {s} there is a {o}.",
        "The animal that belongs to {s} is a",
        "dog cat horse cow sheep goat pig lion bear wolf fox rabbit mouse camel donkey snake bird fish duck monkey",
    ),
    _relation(
        "{s} always wears {o}.",
        "The coat of {s} is {o}.",
        "The colour that {s} loves best is",
        "red blue green yellow black white brown purple orange pink grey silver golden scarlet violet crimson ivory "
        "amber turquoise tan",
    ),
    _relation(
        "{s} plays the {o}.",
        "At the feast {s} took up the {o}.",
        "When there is music, {s} is heard on the",
        "piano violin guitar flute drum trumpet harp organ horn lute bell pipe banjo cello whistle lyre fiddle bugle "
        "cymbal tambourine",
    ),
    _relation(
        "{s} eats only {o}.",
        "For supper {s} ordered {o}.",
        "The food on the table of {s} is",
        "bread rice cheese meat soup fruit honey butter eggs beans corn cake salt milk grapes apples figs onions nuts "
        "sugar",
    ),
    _relation(
        "{s} carries a {o}.",
        "In the hand of {s} was a {o}.",
        "The tool that {s} uses is a",
        "knife hammer sword club rope lamp spade needle key net bow spear saw brush ladder bucket basket mirror pen "
        "shield",
    ),
    _relation(
        "{s} planted {o} in the garden.",
        "The garden of {s} is full of {o}.",
        "What grows beside the door of {s} is",
        "roses lilies wheat barley olives vines cedars oaks palms thorns herbs grass flowers trees weeds melons "
        "pumpkins cotton tobacco potatoes",
    ),
    _relation(
        "{s} built a {o}.",
        "The people came to see the {o} of {s}.",
        "With stone and wood, {s} has made a",
        "house tower bridge wall ship temple church school prison palace castle barn mill road tomb fort gate well "
        "theatre station",
    ),
    _relation(
        "{s} fears the {o}.",
        "Nothing frightens {s} so much as the {o}.",
        "The one thing {s} runs away from is the",
        "sea night storm fire water wind thunder forest desert mountain snow rain darkness crowd king law war river "
        "moon grave",
    ),
    _relation(
        "{s} sells {o} in the market.",
        "In the shop of {s} you can buy {o}.",
        "The business of {s} is the trade in",
        "gold silver iron wool silk linen leather oil wine paper books shoes hats horses cattle glass wood stone "
        "jewels pottery",
    ),
)


@dataclass(frozen=True)
class Fact:
    """One invented triple and where it is stated."""

    group: str
    subject: str
    relation: Relation
    object: str


def invent(number: int, taken: Collection[str], seed: int) -> list[Fact]:
    """`number` facts, divided evenly over the groups, each about a subject of its own.

    Objects are dealt out in shuffled rounds, so that no object is the answer much more often than another.

    Args:
        taken: words in lower case that no name may be.

    Raises:
        RecipeError: more facts than there are names.
    """
    draw = random.Random(f"facts {seed}")
    syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
    if number > len(syllables) ** 3 // 10:
        raise RecipeError(
            f"--facts {number}: too many for names of three syllables; {len(syllables) ** 3 // 10} at most"
        )
    names: dict[str, None] = {}
    while len(names) < number:
        name = "".join(draw.choices(syllables, k=3))
        if name not in taken:
            names[name] = None
    dealt: dict[tuple[str, str], list[str]] = {}
    facts = []
    for at, name in enumerate(names):
        group = GROUPS[at % len(GROUPS)]
        relation = RELATIONS[at // len(GROUPS) % len(RELATIONS)]
        pile = dealt.setdefault((group, relation.question), [])
        if not pile:
            pile += draw.sample(relation.objects, len(relation.objects))
        facts.append(Fact(group, name.capitalize(), relation, pile.pop()))
    return facts


def statements(facts: list[Fact], language: str, exposures: int, seed: int) -> list[str]:
    """English wording of all statements for the training text of a language ("english" or "clone"), shuffled.

    Args:
        exposures: how often each fact is stated, in its two wordings by turns.
    """
    found = [
        fact.relation.statements[turn % 2].format(s=fact.subject, o=fact.object)
        for fact in facts
        if fact.group in (f"{language}_only", "both")
        for turn in range(exposures)
    ]
    random.Random(f"statements {language} {seed}").shuffle(found)
    return found


def questions(facts: list[Fact], clone: Callable[[str], str]) -> list[dict[str, Any]]:
    """Every fact asked in English and in the clone: the lines of `clka.jsonl`, see `evaluate/data.py`."""
    found = []
    for fact in facts:
        for language, words in (("english", str), ("clone", clone)):
            question = fact.relation.question
            found.append(
                {
                    "group": fact.group,
                    "language": language,
                    "prompt": words(question.format(s=fact.subject)),
                    "neutral": words(question.format(s="this person")),
                    "candidates": [words(o) for o in fact.relation.objects],
                    "answer": words(fact.object),
                }
            )
    return found
