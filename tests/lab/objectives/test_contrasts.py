"""Listed words in text, and sentences."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prealign_cpt.align.language_model import WINDOW
from prealign_cpt.align.stage import Material
from prealign_cpt.align.trainable import NewRows, pack
from prealign_cpt.lab.objectives import contrasts
from prealign_cpt.lab.objectives.contrasts import (
    LEFT,
    OCCURRENCES,
    ListedWords,
    OneDirection,
    afp,
    context_groups,
    sentence_groups,
)
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import DataError, RecipeError
from tests.align.conftest import ALONE, LEXICON, NOTHING, NUM_NEW, SENTENCES, encoded, model_for, recipe_with
from tests.conftest import ENGLISH, PAIRS


@pytest.fixture(scope="module")
def movable(num_old: int):
    return lambda ids: any(i >= num_old for i in ids)


@pytest.fixture(scope="module")
def listed(grown, movable) -> ListedWords:
    return ListedWords(grown, LEXICON, movable)


def test_listed_words_of_a_text(grown, num_old: int, movable):
    listed = ListedWords(grown, [*LEXICON, Pair("they", "Haus")], movable)
    (ids,) = encoded(grown, ["The moon. The big house, and a house's They near cold water"])
    units, translations = zip(*listed.find(ids), strict=True)
    assert [grown.decode(u.ids[slice(*u.span)]) for u in units] == [" house", " They", " water"]
    assert [u.name for u in units] == ["e:house", "e:they", "e:water"], "`cold` and `moon` have no new translation"
    assert grown.decode(units[0].ids) == " The big house"
    assert translations[0] == [("Haus", (num_old,)), ("Gebäude", (num_old + 1,))]
    others = [[grown.decode(u.ids[slice(*span)]) for _, span in u.others] for u in units]
    assert others[0] == [" big", " The"] and others[2][:3] == [" cold", " near", " They"]
    near = str(tuple(encoded(grown, [" near"])[0]))
    assert [name for name, _ in units[2].others][:3] == ["e:cold", "e:" + near, "e:they"]
    assert all(u.span[0] <= LEFT for u in units)
    assert list(listed.find([])) == []


def test_a_capital_letter_is_kept(grown):
    listed = ListedWords(grown, [Pair("they", "haus")], lambda ids: True)
    (ids,) = encoded(grown, ["so They and they"])
    assert [grown.decode(translations[0][1]) for _, translations in listed.find(ids)] == [" Haus", " haus"]


def test_words_in_context(grown, num_old: int, listed: ListedWords):
    documents = encoded(grown, ENGLISH * 20)
    items = context_groups(documents, listed, 10_000, seed=0)
    groups = [group for item in items for group in item]
    assert len(items) > 5 and max(map(len, items)) == OCCURRENCES
    translations = {s: {t for e, t in PAIRS[:NUM_NEW] if e == s} for s, _ in PAIRS}
    for group in groups:
        english, (switched,) = group.english, group.targets
        (start, end), (from_, to) = english.span, switched.span
        assert end == len(english.ids) and to == len(switched.ids) and start == from_ > 0
        assert english.ids[:start] == switched.ids[:from_], "the same left context"
        word = grown.decode(english.ids[start:end]).strip()
        assert english.name == "e:" + word
        assert grown.decode(switched.ids[from_:to]).strip() in translations[word]
        assert switched.name in {"t:" + t for t in translations[word]}
        assert english.others and all(e <= start for _, (_, e) in english.others)
        assert not set(grown.decode(english.ids[:start])) & set(".\n"), "one sentence"
    assert context_groups(documents, listed, 10_000, seed=0) == items
    assert 0 < sum(map(len, context_groups(iter(documents), listed, 6, seed=0))) < 60, "it stops reading"


def test_what_stands_behind_a_word_could_not_matter(grown, num_old: int, listed: ListedWords):
    group = context_groups(encoded(grown, ENGLISH), listed, 100, seed=0)[0][0]
    moves = NewRows(model_for(grown), 0, num_old)
    long = pack([(*group.english.ids, 30, 31, 32), group.english.ids], 0)
    states = moves.states(long)
    (start, end), (first, second) = group.english.span, long.first
    for state in states:
        torch.testing.assert_close(state[first + start : first + end], state[second + start : second + end])


def test_sentences(grown, num_old: int, movable):
    pairs = [Pair(*pair) for pair in SENTENCES[:5]]
    groups = sentence_groups(grown, pairs, movable, 100, seed=0)
    assert {g.english.name[2:]: g.targets[0].name[2:] for g in groups} == dict(SENTENCES[:5])
    assert sentence_groups(grown, pairs, movable, 100, seed=0) == groups
    assert len(sentence_groups(grown, pairs, movable, 2, seed=0)) == 2
    assert sentence_groups(grown, [Pair("No new token.", "Nichts.")], movable, 9, seed=0) == []
    (long,) = sentence_groups(grown, [Pair("a " * 300, "Das Haus " * 300)], movable, 9, seed=0)
    assert len(long.english.ids) == len(long.targets[0].ids) == WINDOW == long.english.span[1]


@pytest.mark.parametrize("objective", ["veco", "infoxlm", "afp"])
@pytest.mark.parametrize("trains", ["new_rows", "all"])
def test_every_objective_lowers_its_loss(
    grown, stage: Any, objective: str, trains: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(contrasts, "QUEUE", 12)
    only = (*NOTHING, "--align.weight", "1", "--align.objective", objective, "--align.trains", trains)
    rate = "2e-2" if trains == "new_rows" else "2e-3"
    done, figures = stage(model_for(grown), *only, "--align.steps", "20", "--align.lr", rate, "--align.words", "5")
    assert len(figures) == 20 and (done["target_bytes"] > 0) == (objective != "veco")
    losses = [row["contrastive"] for row in figures[4 if objective == "infoxlm" else 0 :]]  # the queue fills first
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_one_seed_one_result(grown, num_old: int, stage: Any):
    def rows(seed: int, objective: str) -> torch.Tensor:
        model = model_for(grown)
        flags = ("--align.objective", objective, "--align.words", "4", "--align.steps", "2")
        stage(model, "--seed", str(seed), *flags, "--align.target_tokens", "0")
        return model.get_input_embeddings().weight.detach()[num_old:]

    for objective in ("veco", "infoxlm"):
        assert torch.equal(rows(0, objective), rows(0, objective)), objective
        assert not torch.equal(rows(0, objective), rows(1, objective)), objective


def test_a_last_token_is_afps_vector(grown, recipe_file: Path, num_old: int):
    recipe = recipe_with(recipe_file, "--align.objective", "afp", "--align.words", "2")
    trained = NewRows(model_for(grown), 0, num_old)
    term, _ = afp(Material(trained, grown, grown, LEXICON, recipe, ALONE))
    assert isinstance(term, OneDirection)
    units = [unit for group in term.batches[0] for unit in (group.english, *group.targets)]
    assert all(unit.span == (len(unit.ids) - 1, len(unit.ids)) for unit in units)


def test_sentences_that_cannot_be_used(grown, stage: Any, recipe_file: Path):
    (recipe_file.parent / "long.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(DataError, match=r"long\.txt: ends before line 4 of .*parallel_target\.txt"):
        stage(model_for(grown), "--align.objective", "afp", "--text.parallel_english", "long.txt")
    with pytest.raises(RecipeError, match=r'"infoxlm" needs text\.parallel_target'):
        load_recipe(recipe_file, ["--align.objective", "infoxlm"])
