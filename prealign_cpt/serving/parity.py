"""Is the served model the one in the folder? A ladder on which each rung finds what the next would hide.

generate and embed
    shapes             rows, vocab_size and len(tokenizer) are one number, the head is there     check_servable
    round trip         decode(encode(text)) gives the text                                       local tokenizer
    identity           the server's pinned name has this folder's digest                         /v1/models
generate
    tokenization       the server makes the local ids of each text                               vLLM may load another
    echo               scoring gives what generation gave, none missing, none shifted            canary
    log-probabilities  agree with transformers, token by token                                   reference.py
    sampling           no id without a token at temperature 1.5
embed
    embeddings         agree with transformers' mean of the last hidden states, in their order   reference.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prealign_cpt.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.folder import DIGEST_LENGTH, check_servable, model_digest, pinned_digest
from prealign_cpt.serving.reference import Comparison, compare, logprobs, mean_vector

COMMON = ("shapes", "round trip", "identity")
RUNGS = {
    "generate": (*COMMON, "tokenization", "echo", "log-probabilities", "sampling"),
    "embed": (*COMMON, "embeddings"),
}
"""The rungs of each task, in the order in which they are climbed."""

TEXTS = (
    "The water of the river is cold and clear, and 3.14 is not 22/7.",
    "Größe, Füße, naïve Übermut: „Wie bitte?“",
    "Не знаю, был ли дождь; вода холодная.",
    "水は冷たい。漢字 — 🐕\n\tx  y",
)
"""What is compared where no texts are given."""

NUM_SYNTHETIC = 64
"""Length of the two sequences made of ids alone."""

NUM_SAMPLES, SAMPLE_LENGTH, TEMPERATURE = 8, 48, 1.5


def check_parity(
    base_url: str, folder: Path, texts: list[str], start_token: str | None = None, tolerance: float = 1e-5
) -> dict[str, Any]:
    """All figures of `climb` for an fp32 server of the task generate, in one dictionary; raises what `climb` raises."""
    figures: dict[str, Any] = {}
    for _, found in climb(base_url, folder, texts, start_token, tolerance=tolerance):
        figures |= found
    return figures


def climb(
    base_url: str,
    folder: Path,
    texts: list[str],
    start_token: str | None = None,
    *,
    task: str = "generate",
    dtype: str = "fp32",
    tolerance: float = 1e-5,
    key: str | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compare the model served at `base_url` with `folder`; yield each rung of RUNGS[task] with its figures.

    Args:
        texts: what to compare on; include the new language. Besides these, two sequences of ids are compared: the last
            rows of the vocabulary, where an extension puts its new tokens, and rows spread over all of it.
        start_token: put before every sequence; None takes the tokenizer's own.
        dtype: what the server computes in. In bf16 two correct programs differ by 1e-2 to 1e-1 in a log-probability.
        tolerance: for one value. Where the type itself is less exact on this model, that is measured, and the served
            values may be ROUNDING_FACTOR times as far from the exact ones, on average MEAN_FACTOR times.

    Figures:
        rows, bytes; texts; model, pinned (whether the server names the folder's digest); text_tokens; echo_difference;
        tokens, max_logprob_difference, and of `reference.Comparison` rounding, excess, bound, mean, mean_bound;
        sampled. For embed, instead of the last four rungs': vectors, max_embedding_difference and the same five.

    Raises:
        DataError: a rung is broken, with the remedy.
        UnavailableError: the server does not answer.
    """
    from transformers import AutoTokenizer

    servable = check_servable(folder)
    rows = servable["rows"]
    yield "shapes", dict(servable)

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = _start_id(folder, tokenizer, start_token)
    encoded = [_round_trip(tokenizer, text) for text in texts]
    yield "round trip", {"texts": len(texts)}

    model, pinned, length = identify(base_url, folder, key=key)
    yield "identity", {"model": model, "pinned": pinned}

    if task == "generate":
        # The server wants room for one more token, and the canary for its own.
        cut = [_cut(tokenizer, text, length - 2) for text in texts]
        for text in cut:
            _check_tokenization(base_url, model, tokenizer, text, key)
        yield "tokenization", {"text_tokens": sum(len(_encode(tokenizer, text)) for text in cut)}

        canary = [start, *(encoded[0] if encoded else range(rows - 8, rows))][: length - client.CANARY_LENGTH - 1]
        yield "echo", {"echo_difference": client.check_echo(base_url, model, canary, key=key)}

    synthetic = [
        list(range(max(0, rows - NUM_SYNTHETIC), rows)),
        list(range(0, rows, max(1, rows // NUM_SYNTHETIC)))[:NUM_SYNTHETIC],
    ]
    names = [f"text {number + 1}" for number in range(len(texts))] + ["the last rows", "rows of the whole vocabulary"]
    sequences = [[start, *ids][: length - 1] for ids in [*encoded, *synthetic]]
    if task == "embed":
        yield "embeddings", _check_embeddings(base_url, model, folder, names, sequences, dtype, tolerance, key)
        return
    yield (
        "log-probabilities",
        _check_logprobs(base_url, model, folder, names, sequences, dtype, tolerance, key),
    )
    yield "sampling", {"sampled": _check_samples(base_url, model, len(tokenizer), start, length - 1, key)}


def identify(base_url: str, folder: Path, *, key: str | None = None) -> tuple[str, bool, int]:
    """Whether the server's model is `folder`'s, by the digest in the pinned name that `prealign serve` gives.

    Returns:
        the name to ask for, which no other model answers to if it is pinned; whether it is; the longest sequence.

    Raises:
        DataError: the server holds another model, or several and none with a digest.
        UnavailableError: the server does not answer.
    """
    served = client.models(base_url, key=key)
    expected = model_digest(folder)[:DIGEST_LENGTH]
    pinned = {str(model["id"]): pinned_digest(str(model["id"])) for model in served}
    digests = {digest for digest in pinned.values() if digest}
    if digests and expected not in digests:
        raise DataError(
            f"{base_url}: serves {', '.join(sorted(pinned))}, but the folder {folder} has the digest {expected}; "
            "another model stands behind this address: serve this folder, or name the one that is served"
        )
    if not digests and len(served) != 1:
        raise DataError(f"{base_url}: serves {len(served)} models, parity is checked for one; serve the folder alone")
    names = [name for name, digest in pinned.items() if digest == expected] or list(pinned)
    length = next(int(model.get("max_model_len") or 2**31) for model in served if model["id"] == names[0])
    return names[0], bool(digests), length


def _start_id(folder: Path, tokenizer: Any, start_token: str | None) -> int:
    token = start_token or tokenizer.bos_token or tokenizer.eos_token
    start = tokenizer.get_vocab().get(token)
    if start is None:
        raise DataError(f"{folder}: the start token {token!r} is not in the vocabulary; see the recipe's base")
    return int(start)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _round_trip(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that they give back."""
    ids = _encode(tokenizer, text)
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        raise DataError(
            f"tokenizer round trip: {_short(text)} comes back as {_short(back)}; the merged tokenizer loses text: "
            "run the vocabulary stage again, and normalise the text (NFC) as the recipe's corpus was"
        )
    return ids


def _cut(tokenizer: Any, text: str, length: int) -> str:
    """A beginning of the text that has at most `length` tokens."""
    while (count := len(_encode(tokenizer, text))) > length:
        text = text[: len(text) * length // count]
    return text


def _check_tokenization(base_url: str, model: str, tokenizer: Any, text: str, key: str | None) -> None:
    if text and client.tokenize(base_url, model, text, key=key) != _encode(tokenizer, text):
        raise DataError(
            f"{base_url}: the server makes other ids than the folder's tokenizer of {_short(text)}; it holds another "
            "tokenizer: serve this folder, and check tokenizer_class in its tokenizer_config.json"
        )


def _check_logprobs(
    base_url: str,
    model: str,
    folder: Path,
    names: list[str],
    sequences: list[list[int]],
    dtype: str,
    tolerance: float,
    key: str | None,
) -> dict[str, Any]:
    served = [
        torch.tensor(client.token_logprobs(base_url, model, ids, key=key), dtype=torch.float64) for ids in sequences
    ]
    found = compare(served, folder, sequences, logprobs, dtype, tolerance)
    number, place, _, _ = found.worst
    where = f"token {place + 1} (id {sequences[number][place + 1]}) of {names[number]}" if place else names[number]
    _judge(found, base_url, "log-probabilities", where, dtype, tolerance)
    return {
        "tokens": sum(len(ids) - 1 for ids in sequences),
        "max_logprob_difference": found.difference,
        **_figures(found),
    }


def _check_embeddings(
    base_url: str,
    model: str,
    folder: Path,
    names: list[str],
    sequences: list[list[int]],
    dtype: str,
    tolerance: float,
    key: str | None,
) -> dict[str, Any]:
    # All in one request: answers that are not in the order of the inputs are far from the folder's vectors.
    vectors = client.embed(base_url, model, sequences, batch=len(sequences), key=key)
    served = [torch.from_numpy(vector.astype(np.float64)) for vector in vectors]
    found = compare(served, folder, sequences, mean_vector, dtype, tolerance)
    _judge(found, base_url, "embeddings", names[found.worst[0]], dtype, tolerance)
    return {
        "vectors": len(served),
        "max_embedding_difference": found.difference,
        **_figures(found),
    }


def _figures(found: Comparison) -> dict[str, float]:
    return {name: getattr(found, name) for name in ("rounding", "excess", "bound", "mean", "mean_bound")}


def _judge(found: Comparison, base_url: str, what: str, where: str, dtype: str, tolerance: float) -> None:
    if found.holds:
        return
    raise DataError(
        f"{base_url}: {what} differ by {found.difference:.3g} (tolerance {tolerance:g}, rounding of {dtype} "
        f"{found.rounding:.3g}) and on average by {found.mean:.3g} ({found.mean_bound:.3g} allowed), most at {where}: "
        f"{found.worst[2]:.6f} served, {found.worst[3]:.6f} from the folder; the server holds other weights, pools "
        f"otherwise, or computes in another type than {dtype}: serve this folder, give --dtype as it is served, or a "
        "tolerance"
    )


def _check_samples(base_url: str, model: str, num_tokens: int, start: int, longest: int, key: str | None) -> int:
    """Sample hot; return how many tokens came."""
    length = min(SAMPLE_LENGTH, longest)
    samples = client.sample_ids(
        base_url, model, [start], max_tokens=length, temperature=TEMPERATURE, n=NUM_SAMPLES, seed=0, key=key
    )
    for ids in samples:
        for number in ids:
            if not 0 <= number < num_tokens:
                raise DataError(
                    f"{base_url}: id {number} was sampled, the tokenizer has {num_tokens}; the served model has "
                    "rows without a token: export exactly one row for each token"
                )
    return sum(map(len, samples))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
