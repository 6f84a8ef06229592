"""Mixed-language output: letters of the wrong script in what a model writes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prealign_cpt.evaluate.generation.mixed_output import _continue, main_script, mixed_output, script_of
from tests.conftest import make_model, make_tokenizer

ENGLISH_TEXT = ["the river runs through the old city and the moon is on the water"] * 3
RUSSIAN_TEXT = ["старая река течёт через город, и луна стоит над водой; никто не говорит ни слова до утра"] * 3


class Parrot(nn.Module):
    """Writes given tokens in turn, whatever it reads."""

    def __init__(self, ids: list[int], vocabulary: int) -> None:
        super().__init__()
        self._ids, self._vocabulary = ids, vocabulary
        self._embedding = nn.Embedding(1, 1)

    def get_input_embeddings(self) -> nn.Embedding:
        return self._embedding

    def forward(self, input_ids, past_key_values, use_cache, logits_to_keep):
        step = past_key_values or 0
        logits = torch.zeros(len(input_ids), 1, self._vocabulary)
        logits[:, :, self._ids[step % len(self._ids)]] = 9.0
        return SimpleNamespace(logits=logits, past_key_values=step + 1)


@pytest.fixture(scope="module")
def both():
    return make_tokenizer((ENGLISH_TEXT + RUSSIAN_TEXT) * 3, 320)


def test_scripts():
    assert [script_of(c) for c in "aЖԱ1 "] == ["LATIN", "CYRILLIC", "ARMENIAN", "", ""]
    assert main_script(["abc", "Ж 123"]) == "LATIN" and main_script(["12"]) == ""


def test_the_share_of_foreign_letters(both):
    ids = both.encode("abcя1", add_special_tokens=False)
    parrot = Parrot(ids, len(both))
    found = mixed_output(parrot, both, {"target": RUSSIAN_TEXT, "english": ENGLISH_TEXT}, 0, tokens=len(ids))
    assert found == {"target": 0.75, "english": 0.25, "target_letters": 12, "english_letters": 12}


def test_one_script_cannot_be_told_apart(both):
    found = mixed_output(Parrot([1], len(both)), both, {"target": ENGLISH_TEXT, "english": ENGLISH_TEXT}, 0)
    assert found["target"] is None and found["english"] is None and "LATIN" in found["reason"]
    found = mixed_output(Parrot([1], len(both)), both, {"target": ["коротко"], "english": ENGLISH_TEXT}, 0)
    assert found["target"] is None and "target" in found["reason"]


def test_no_letters_no_share(both):
    parrot = Parrot(both.encode("1", add_special_tokens=False), len(both))
    found = mixed_output(parrot, both, {"target": RUSSIAN_TEXT, "english": ENGLISH_TEXT}, 0, tokens=3)
    assert found["target"] is None and found["target_letters"] == 0


def test_greedy_continuation_is_the_models_own():
    """With the cache, against a plain forward pass over all that is written."""
    model = make_model(50)
    prompts = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    written = _continue(model, prompts, 5, 0.0, 0)
    whole = torch.cat([prompts, written], dim=1)
    with torch.no_grad():
        greedy = model(whole).logits.argmax(dim=-1)
    assert torch.equal(written, greedy[:, 6:-1])
    hot = [_continue(model, prompts, 5, 1.0, seed) for seed in (0, 0, 1)]
    assert torch.equal(hot[0], hot[1]) and not torch.equal(hot[0], hot[2])
