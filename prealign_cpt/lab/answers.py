"""What the served model writes, beside what the base writes after the same words.

prompt --server--> greedy, sampled --+
       --base in transformers------> +--> serve/result.json --> the page
end of a held-out document --server--> does it stop there?
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from prealign_cpt.model.load import load_whole
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.serving.client import answers
from prealign_cpt.serving.server import Server
from prealign_cpt.text.reader import read_documents

MAX_TOKENS = 64
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 0}

ENDS, SAMPLES, TAIL = 4, 4, 192
"""Held-out documents, samples after each, and tokens of the document's end that are given."""


def ask(server: Server, recipe: Recipe, export: Path, base: Path) -> list[dict[str, Any]]:
    """Ours, greedy and sampled, and the base's for each prompt of the recipe."""
    tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True)
    asked = [(recipe.language, prompt) for prompt in recipe.serve.prompts_target]
    asked += [("English", prompt) for prompt in recipe.serve.prompts_english]
    prompts = [_ids(tokenizer, recipe, prompt) for _, prompt in asked]
    greedy = answers(server.base_url, server.model, prompts, max_tokens=MAX_TOKENS)
    sampled = answers(server.base_url, server.model, prompts, max_tokens=MAX_TOKENS, **SAMPLING)
    theirs = _of_the_base(base, recipe, [prompt for _, prompt in asked])
    return [
        {
            "language": language,
            "prompt": prompt,
            "greedy": _entry(*one),
            "sampled": _entry(*two),
            "base": {"text": text},
        }
        for (language, prompt), one, two, text in zip(asked, greedy, sampled, theirs, strict=True)
    ]


def ends(server: Server, recipe: Recipe, export: Path) -> dict[str, int]:
    """Does the model stop where held-out documents end? `stopped` of `asked` sampled texts did within MAX_TOKENS."""
    tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True)
    documents = list(read_documents([recipe.path(recipe.text.valid_target)]))[:ENDS]
    prompts = [_ids(tokenizer, recipe, document)[-TAIL:] for document in documents]
    found = answers(server.base_url, server.model, prompts, n=SAMPLES, max_tokens=MAX_TOKENS, **SAMPLING)
    return {"asked": len(found), "stopped": sum(reason == "stop" for _, reason in found)}


def _ids(tokenizer: PreTrainedTokenizerBase, recipe: Recipe, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return [start_token_id(tokenizer, recipe), *ids]


def _entry(text: str, finish_reason: str) -> dict[str, str]:
    return {"text": text, "finish_reason": finish_reason}


@torch.no_grad()
def _of_the_base(base: Path, recipe: Recipe, prompts: list[str]) -> list[str]:
    model = load_whole(base).eval()
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    start = start_token_id(tokenizer, recipe)
    own = model.generation_config.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        eos_token_id=[*(own if isinstance(own, list) else [] if own is None else [own]), start],
        pad_token_id=start,
    )
    found = []
    for prompt in prompts:
        ids = _ids(tokenizer, recipe, prompt)
        written = model.generate(torch.tensor([ids]), generation_config=settings)[0, len(ids) :]
        found.append(str(tokenizer.decode(written, skip_special_tokens=True)))
    return found
