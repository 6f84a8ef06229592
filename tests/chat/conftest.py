"""Chat templates of three families, and tokenizers that have them."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from tests.conftest import ENGLISH, TARGET, make_tokenizer

CHATML = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA_3 = """{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

MISTRAL = """{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]\
{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"""

TAGGED = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}\
{{ message['content'] }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

STYLES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "llama 3": (LLAMA_3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>"),
    "mistral": (MISTRAL, ["</s>"], "</s>"),
    "tagged": (TAGGED, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
}
"""Template, special tokens that it needs, and the one that ends an answer."""


def tokenizer_of(style: str) -> PreTrainedTokenizerFast:
    template, special, _ = STYLES[style]
    tokenizer = make_tokenizer([*ENGLISH, *TARGET], 400)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    if style == "mistral":
        tokenizer.eos_token = "</s>"
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> Callable[[str], PreTrainedTokenizerFast]:
    made: dict[str, PreTrainedTokenizerFast] = {}

    def of(style: str) -> PreTrainedTokenizerFast:
        if style not in made:
            made[style] = tokenizer_of(style)
        return made[style]

    return of
