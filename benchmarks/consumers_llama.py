"""What llama.cpp makes of a GGUF file: `PYTHON benchmarks/consumers_llama.py < question > answer`.

Runs where llama-cpp-python is, with nothing of this package.

    question  {"model": file, "texts": [...], "score": how many texts to score, "ends": ids}
    answer    {"version", "ids", "with_special", "ends": those at which it stops, "nats": of each scored text}
"""

import json
import sys

import llama_cpp
import numpy as np


def nats(model: llama_cpp.Llama, ids: list[int]) -> float:
    """Negative log-likelihood of all ids but the first."""
    model.reset()
    model.eval(ids)
    logits = np.asarray(model.scores[: len(ids) - 1], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(ids) - 1), ids[1:]]
    return float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())


def main() -> None:
    question = json.load(sys.stdin)
    score = question["score"]
    model = llama_cpp.Llama(
        question["model"], vocab_only=not score, logits_all=bool(score), n_ctx=2048, n_batch=2048, verbose=False
    )
    raw = [text.encode() for text in question["texts"]]
    answer = {
        "version": llama_cpp.__version__,
        "ids": [model.tokenize(text, add_bos=False, special=False) for text in raw],
        "with_special": [model.tokenize(text, add_bos=True, special=False) for text in raw],
    }
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    answer["ends"] = [number for number in question["ends"] if llama_cpp.llama_vocab_is_eog(vocab, number)]
    answer["nats"] = [nats(model, ids) for ids in answer["with_special"][:score]]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
