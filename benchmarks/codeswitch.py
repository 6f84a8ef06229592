"""How many tokens a second one core switches: `python benchmarks/codeswitch.py TEXT... --base FOLDER --lexicon FILE`.

    python benchmarks/codeswitch.py ~/.cache/prealign_cpt/bible-de/english.train.txt

Three ways over the same documents, all in one thread, tokenized beforehand:

- fast: `Switcher.switch_many`, as the data stage calls it, the documents of one tokenizer call at a time;
- reference: the word-by-word implementation that the tests hold it against, with the same draws; the outputs of both
  are compared on all documents before anything is measured;
- collator: the per-word loop of the released PreAlign collator, plainly written again: words are the groups of tokens
  from one that begins a word to the next, `random` chooses among them, a dict is asked.

Time is CPU time of the thread, so other load does not count; the median of the repeats is given. The last line is one
JSON object; the switching ratio is the recipe's default.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # the reference stands among the tests

import numpy as np
from transformers import AutoTokenizer

from prealign_cpt.data.codeswitch import Switcher, Table, token_table
from prealign_cpt.data.pack import encode_many
from prealign_cpt.data.word_spans import Documents
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.recipe.schema import Codeswitch
from prealign_cpt.text.reader import read_documents
from tests.data.plain_switching import Plain, switch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", type=Path, help="English text, .txt or .jsonl")
    parser.add_argument("--base", default="smollm2-135m", help="tokenizer folder or the name of a fetched base model")
    parser.add_argument("--lexicon", type=Path, default=Path(__file__).parents[1] / "lexicons" / "en-de.tsv")
    parser.add_argument("--ratio", type=float, default=Codeswitch().ratio)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(resolve_base(options.base), local_files_only=True)
    pairs = read_pairs(options.lexicon)
    switcher, texts, table = (
        Switcher(tokenizer, pairs, options.ratio),
        token_texts(tokenizer),
        token_table(tokenizer, pairs),
    )
    batches = list(encode_many(read_documents(options.text), tokenizer, tokenizer.eos_token_id))
    documents = [ids.tolist() for b in batches for ids in np.split(b.ids, b.borders[1:-1])]
    tokens = sum(map(len, documents))

    def fast() -> list[np.ndarray]:
        return [
            switcher.switch_many(batch, 0, 0, first).inputs
            for batch, first in zip(batches, firsts(batches), strict=True)
        ]

    def reference() -> list[Plain]:
        return [
            switch(ids, texts, table, options.ratio, "input_only", 0, 0, number) for number, ids in enumerate(documents)
        ]

    begins = [text.startswith(" ") or not text.isalpha() for text in texts]

    def loop() -> list[tuple[list[int], list[int]]]:
        return [collator(ids, begins, table, options.ratio) for ids in documents]

    plain = [i for document in reference() for i in document.inputs]
    assert np.concatenate(fast()).tolist() == plain, "the fast one differs from the reference"
    print(f"{len(documents)} documents, {tokens} tokens, {len(plain)} after switching; equal to the reference")
    found = {
        "tokens_per_second": speed(fast, tokens, options.repeats),
        "reference_tokens_per_second": speed(reference, tokens, 3),
        "collator_tokens_per_second": speed(loop, tokens, 3),
    }
    found["times_reference"] = found["tokens_per_second"] / found["reference_tokens_per_second"]
    found["times_collator"] = found["tokens_per_second"] / found["collator_tokens_per_second"]
    print(
        json.dumps(
            {name: round(value, 1) for name, value in found.items()} | {"tokens": tokens, "ratio": options.ratio}
        )
    )


def firsts(batches: list[Documents]) -> list[int]:
    """Number of the first document of each batch."""
    return [0, *np.cumsum([len(batch) for batch in batches])[:-1].tolist()]


def collator(ids: list[int], begins: list[bool], table: Table, ratio: float) -> tuple[list[int], list[int]]:
    """Inputs and labels of one document, as a collator makes them that walks over words."""
    words: list[list[int]] = []
    for i in ids:
        if begins[i] or not words:
            words.append([])
        words[-1].append(i)
    inputs: list[int] = []
    labels: list[int] = []
    for word in words:
        choices = table.get(tuple(word)) if random.random() < ratio else None
        if choices is None:
            inputs += word
            labels += word
        else:
            new = random.choice(list(choices))
            inputs += new
            labels += [word[0]] + [-100] * (len(new) - 1)
    return inputs, labels


def speed(work: Callable[[], object], tokens: int, repeats: int) -> float:
    """Median tokens per second of CPU time, after one run to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        seconds.append(time.thread_time() - began)
    print(f"{work.__name__}: " + " ".join(f"{tokens / s:,.0f}" for s in seconds) + " tokens/s", flush=True)
    return tokens / statistics.median(seconds)


if __name__ == "__main__":
    main()
