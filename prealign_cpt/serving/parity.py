"""Is the served model the one in the folder? A ladder on which each rung finds what the next would hide.

1  rows, vocab_size and len(tokenizer) are one number          check_servable
2  decode(encode(text)) gives the text                         local tokenizer
3  the server's /tokenize gives the local ids                  vLLM may load another tokenizer class
4  log-probabilities agree                                     against transformers in fp32, token by token
5  no id without a token is sampled                            temperature 1.5
"""

import json
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import torch

from prealign_cpt.errors import DataError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.server import check_servable

NUM_SYNTHETIC = 64
"""Length of the two sequences made of ids alone."""

NUM_SAMPLES, SAMPLE_LENGTH, TEMPERATURE = 8, 48, 1.5


def check_parity(
    base_url: str, folder: Path, texts: list[str], start_token: str, tolerance: float = 1e-5
) -> dict[str, float | int]:
    """Compare the one model served at `base_url` with `folder`.

    Args:
        texts: what to compare on; include the new language. Besides these, two sequences of ids are scored: the last
            rows of the vocabulary, where an extension puts its new tokens, and rows spread over all of it.
        start_token: put before every sequence.
        tolerance: for a single log-probability. The default is for a server in fp32; one in bf16 is off by
            1e-2 to 1e-1.

    Returns:
        rows, texts, tokens (scored), max_logprob_difference, sampled (tokens).

    Raises:
        DataError: a rung is broken, with the remedy.
        UnavailableError: the server does not answer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = check_servable(folder)["rows"]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = tokenizer.get_vocab().get(start_token)
    if start is None:
        raise DataError(f"{folder}: the start token {start_token!r} is not in the vocabulary; see the recipe's base")
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for text, ids in zip(texts, encoded, strict=True):
        _check_round_trip(tokenizer, text, ids)

    served = client.models(base_url)
    if len(served) != 1:
        raise DataError(f"{base_url}: serves {len(served)} models, parity is checked for one; serve the folder alone")
    model = str(served[0]["id"])
    for text, ids in zip(texts, encoded, strict=True):
        _check_tokenize(base_url, model, text, ids)

    longest = int(served[0].get("max_model_len") or 2**31) - 1  # the server wants room for one more token
    synthetic = [
        list(range(max(0, rows - NUM_SYNTHETIC), rows)),
        list(range(0, rows, max(1, rows // NUM_SYNTHETIC)))[:NUM_SYNTHETIC],
    ]
    sequences = [[start, *ids][:longest] for ids in [*encoded, *synthetic]]
    reference = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    difference, num_tokens = 0.0, 0
    for number, ids in enumerate(sequences):
        name = f"text {number + 1}" if number < len(texts) else "a sequence over the vocabulary"
        difference = max(difference, _check_logprobs(base_url, model, reference, ids, name, tolerance))
        num_tokens += len(ids) - 1
    return {
        "rows": rows,
        "texts": len(texts),
        "tokens": num_tokens,
        "max_logprob_difference": difference,
        "sampled": _check_samples(base_url, model, tokenizer, start, longest),
    }


def _check_round_trip(tokenizer: Any, text: str, ids: list[int]) -> None:
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        raise DataError(
            f"tokenizer round trip: {_short(text)} comes back as {_short(back)}; the merged tokenizer loses text: "
            "run the vocabulary stage again, and normalise the text (NFC) as the recipe's corpus was"
        )


def _check_tokenize(base_url: str, model: str, text: str, ids: list[int]) -> None:
    served = _post(base_url, "/tokenize", {"model": model, "prompt": text, "add_special_tokens": False}).get("tokens")
    if served != ids:
        raise DataError(
            f"{base_url}: /tokenize gives other ids than the folder's tokenizer for {_short(text)}; the server holds "
            "another tokenizer: serve this folder, and check tokenizer_class in its tokenizer_config.json"
        )


def _check_logprobs(
    base_url: str, model: str, reference: torch.nn.Module, ids: list[int], name: str, tolerance: float
) -> float:
    """Largest difference on one sequence. Logits: [1, len(ids), rows]."""
    served = torch.tensor(client.token_logprobs(base_url, model, ids), dtype=torch.float64)
    row = torch.tensor([ids])
    with torch.inference_mode():
        logits = reference(input_ids=row, use_cache=False).logits
    local = logits[:, :-1].float().log_softmax(-1).gather(-1, row[:, 1:, None]).flatten().double()
    differences = (served - local).abs()
    if not len(differences):
        return 0.0
    worst = int(differences.argmax())
    largest = float(differences[worst])
    if not largest <= tolerance:  # also true for a NaN of the folder's own model
        raise DataError(
            f"{base_url}: log-probabilities differ by {largest:.3g} (tolerance {tolerance:g}) at token {worst + 1} "
            f"(id {ids[worst + 1]}) of {name}: {served[worst]:.6f} served, {local[worst]:.6f} from the folder; the "
            "server holds other weights or computes in another type: serve this folder in fp32, or give a tolerance"
        )
    return largest


def _check_samples(base_url: str, model: str, tokenizer: Any, start: int, longest: int) -> int:
    """Sample hot; return how many tokens came."""
    length = min(SAMPLE_LENGTH, longest)
    samples = client.sample_ids(
        base_url, model, [start], max_tokens=length, temperature=TEMPERATURE, n=NUM_SAMPLES, seed=0
    )
    for ids in samples:
        for number in ids:
            if not 0 <= number < len(tokenizer):
                raise DataError(
                    f"{base_url}: id {number} was sampled, the tokenizer has {len(tokenizer)}; the served model has "
                    "rows without a token: export exactly one row for each token"
                )
    return sum(map(len, samples))


def _post(base_url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask a route that lies beside /v1."""
    root = base_url.rstrip("/").removesuffix("/v1")
    request = Request(root + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    local = client.is_loopback(urlsplit(base_url).hostname or "")  # then no proxy, as in the client
    opener = build_opener(ProxyHandler({})) if local else build_opener()
    try:
        with opener.open(request, timeout=60) as answer:
            return dict(json.load(answer))
    except HTTPError as error:
        raise DataError(f"{root}{path}: HTTP {error.code}; serve the folder with vLLM 0.32") from error
    except (URLError, OSError, ValueError, TypeError) as error:
        raise UnavailableError(f"{root}{path}: no usable answer: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
