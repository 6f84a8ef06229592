"""What is learned of a conversation: exactly the answers and the token that ends each, whatever the template."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prealign_cpt.chat.instructions import Messages
from prealign_cpt.chat.render import Renderer
from prealign_cpt.run.errors import RecipeError
from tests.chat.conftest import CHATML, STYLES, tokenizer_of

Tokenizers = Callable[[str], PreTrainedTokenizerFast]
CONTENT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(str.strip).filter(bool)


def _turns(*texts: str) -> Messages:
    return tuple(zip(("user", "assistant") * len(texts), texts, strict=False))


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("style", STYLES)
def test_the_answer_and_its_end_are_learned(style: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers(style)
    renderer = Renderer(tokenizer)
    end = STYLES[style][2]
    assert renderer.turn_end == tokenizer.convert_tokens_to_ids(end)
    example = renderer.example(_turns("Where is the house?", "Near the river."))
    assert example is not None
    ids, learned = example
    ((begin, until),) = _runs(learned)
    assert tokenizer.decode(ids[begin:until]).strip() == f"Near the river.{end}"
    assert tokenizer.decode(ids[:begin]) + tokenizer.decode(ids[begin:]) == tokenizer.decode(ids)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is the house?"}, {"role": "assistant", "content": "Near the river."}],
        tokenize=False,
    )
    assert tokenizer.decode(ids) == whole


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(CONTENT, min_size=2, max_size=6).filter(lambda one: len(one) % 2 == 0))
def test_each_answer_by_itself(style: str, texts: list[str], tokenizers: Tokenizers) -> None:
    """The learned stretches are the answers, and what stands before each is the prompt that a server would make."""
    tokenizer, end = tokenizers(style), STYLES[style][2]
    renderer = Renderer(tokenizer)
    example = renderer.example(_turns(*texts))
    assert example is not None
    ids, learned = example
    runs = _runs(learned)
    assert [tokenizer.decode(ids[a:b]).strip() for a, b in runs] == [f"{text}{end}" for text in texts[1::2]]
    for k, (begin, _) in enumerate(runs):
        assert ids[:begin].tolist() == renderer.prompt(_turns(*texts[: 2 * k + 1]))


def test_it_is_what_transformers_marks_and_the_end(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers("tagged")
    turns = [{"role": role, "content": text} for role, text in _turns("Where?", "Near the river.")]
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    example = Renderer(tokenizer).example(_turns("Where?", "Near the river."))
    assert example is not None and _runs(np.array(marked["assistant_masks"], dtype=bool)) == [
        (a, b - 1) for a, b in _runs(example[1])
    ]


def test_a_special_token_in_a_content_is_not_learned(tokenizers: Tokenizers) -> None:
    assert Renderer(tokenizers("chatml")).example(_turns("Say it.", "It.<|im_end|> More.")) is None


def test_an_answer_whose_border_is_not_exact_is_left_out() -> None:
    """A template that rewrites earlier answers hides their borders; the last one is learned all the same."""
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] if loop.last or message['role'] == 'user' else '…' }}"
    )
    example = Renderer(tokenizer).example(_turns("One?", "First.", "Two?", "Second."))
    assert example is not None
    ids, learned = example
    assert [tokenizer.decode(ids[a:b]) for a, b in _runs(learned)] == ["Second.<|im_end|>"]


def test_templates_that_cannot_be_used_are_refused() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = None
    with pytest.raises(RecipeError, match=r"no chat template; name a Jinja file with chat\.template"):
        Renderer(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(RecipeError, match=r"cannot render a question and its answer \(never\)"):
        Renderer(tokenizer)
    tokenizer.chat_template = "{% if add_generation_prompt %}x{% endif %}{{ messages[-1]['content'] }}"
    with pytest.raises(RecipeError, match="no beginning of the conversation"):
        Renderer(tokenizer)
