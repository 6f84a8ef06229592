"""Is the served model the one in the folder? A ladder on which each rung finds what the next would hide.

1  rows, vocab_size and len(tokenizer) are one number          check_servable
2  decode(encode(text)) gives the text                         local tokenizer
3  the server's /tokenize gives the local ids                  vLLM may load another tokenizer class
4  log-probabilities agree                                     against transformers, token by token
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

ROUNDING_FACTOR = 4
"""How much further from fp64 than transformers in fp32 the served values may be."""

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
            1e-2 to 1e-1. Where fp32 itself is less exact on this model, that is measured (with the model in fp64, twice
            its memory) and the served values may be ROUNDING_FACTOR times as far from fp64.

    Returns:
        rows, texts, tokens (scored), max_logprob_difference (to fp32), fp32_rounding (0.0 if the tolerance was kept),
        sampled (tokens).

    Raises:
        DataError: a rung is broken, with the remedy.
        UnavailableError: the server does not answer.
    """
    from transformers import AutoTokenizer

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
    names = [f"text {number + 1}" for number in range(len(texts))] + ["the last rows", "rows of the whole vocabulary"]
    named = [(name, [start, *ids][:longest]) for name, ids in zip(names, [*encoded, *synthetic], strict=True)]
    difference, rounding = _check_logprobs(base_url, model, folder, named, tolerance)
    return {
        "rows": rows,
        "texts": len(texts),
        "tokens": sum(len(ids) - 1 for _, ids in named),
        "max_logprob_difference": difference,
        "fp32_rounding": rounding,
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
    base_url: str, model: str, folder: Path, named: list[tuple[str, list[int]]], tolerance: float
) -> tuple[float, float]:
    """Score every sequence on both sides; return the largest difference, and fp32's rounding (0 if not needed)."""
    from transformers import AutoModelForCausalLM

    served = [torch.tensor(client.token_logprobs(base_url, model, ids), dtype=torch.float64) for _, ids in named]
    reference = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    local = [_logprobs(reference, ids) for _, ids in named]
    difference = _largest(served, local)
    if difference <= tolerance:
        return difference, 0.0
    # A few activations of some models are thousands of times larger than the rest, and two correct fp32 programs then
    # differ by 1e-4. Norms and angles stay fp32 in a double model, so the rounding is underestimated: hence the factor.
    exact = [_logprobs(reference.double(), ids) for _, ids in named]
    rounding = _largest(local, exact)
    if _largest(served, exact) <= max(tolerance, ROUNDING_FACTOR * rounding):
        return difference, rounding
    worst = max(range(len(named)), key=lambda number: _largest(served[number : number + 1], exact[number : number + 1]))
    name, ids = named[worst]
    place = int((served[worst] - exact[worst]).abs().nan_to_num(torch.inf).argmax())
    raise DataError(
        f"{base_url}: log-probabilities differ by {difference:.3g} (tolerance {tolerance:g}, rounding of fp32 "
        f"{rounding:.3g}), most at token {place + 1} (id {ids[place + 1]}) of {name}: {served[worst][place]:.6f} "
        f"served, {exact[worst][place]:.6f} from the folder; the server holds other weights or computes in another "
        "type: serve this folder in fp32, or give a tolerance"
    )


def _logprobs(reference: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Of each id but the first: [len(ids) - 1], from logits [1, len(ids), rows]."""
    row = torch.tensor([ids])
    with torch.inference_mode():
        logits = reference(input_ids=row, use_cache=False).logits
    return logits[:, :-1].double().log_softmax(-1).gather(-1, row[:, 1:, None]).flatten()


def _largest(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Largest difference anywhere; a NaN counts as infinite."""
    gap = (torch.cat(left) - torch.cat(right)).abs().nan_to_num(torch.inf)
    return float(gap.max()) if len(gap) else 0.0


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
