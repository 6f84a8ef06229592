"""Invented facts: what is stated where, and what is asked."""

from collections import Counter

import pytest

from prealign_cpt.evaluate.data import GROUPS
from prealign_cpt.lab.clone.facts import RELATIONS, invent, questions, statements
from prealign_cpt.run.errors import RecipeError


def test_relations():
    for relation in RELATIONS:
        assert len(set(relation.objects)) == len(relation.objects) >= 20
        assert relation.question not in {statement[: len(relation.question)] for statement in relation.statements}
        assert all("{s}" in text and "{o}" in text for text in relation.statements)
        assert "{s}" in relation.question and "{o}" not in relation.question
    assert len(RELATIONS) == 12


def test_facts_are_even_and_their_names_new():
    facts = invent(96, set(), seed=3)
    assert Counter(fact.group for fact in facts) == dict.fromkeys(GROUPS, 24)
    assert len({fact.subject for fact in facts}) == 96
    assert max(Counter((f.group, f.relation.question, f.object) for f in facts).values()) == 1
    taken = {fact.subject.lower() for fact in facts}
    assert not taken & {fact.subject.lower() for fact in invent(96, taken, seed=3)}
    with pytest.raises(RecipeError, match="--facts"):
        invent(10**6, set(), 0)


def test_statements_and_questions_agree():
    facts = invent(48, set(), seed=0)
    stated = {language: statements(facts, language, 5, seed=0) for language in ("english", "clone")}
    asked = questions(facts, str.upper)
    assert len(asked) == 2 * len(facts)
    for fact in facts:
        for language, texts in stated.items():
            mine = [text for text in texts if fact.subject in text]
            expected = 5 if fact.group in (f"{language}_only", "both") else 0
            assert len(mine) == expected and all(fact.object in text for text in mine)
            assert len(set(mine)) == min(2, expected)
    for question in asked:
        case = str.upper if question["language"] == "clone" else str
        assert question["answer"] in question["candidates"]
        assert case(question["prompt"]) == question["prompt"] != question["neutral"]
        assert not any(text.startswith(question["prompt"]) for texts in stated.values() for text in texts)
