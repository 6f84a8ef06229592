"""Where an extended model gains and loses beside the base: new words and old tokens, first and repeated in a window.

    python benchmarks/repeated_words.py BASE EXTENDED TEXT --old-tokens N

BASE and EXTENDED are Hugging Face folders of models trained alike, the first with its own tokens; TEXT is held out.
Both read the same windows. Nats are summed between the places where both tokenizations end together, and each such
segment is put into one of eight kinds: does the extended model spell it with a new token or not, was the segment before
it new, and has it occurred in the window before. Prints a line of JSON: bits per byte of both models, and by kind how
many segments there are, their mean nats in both models, and the bits per byte of text that the extension loses (or
gains, if negative) in them.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.model.bits import windows
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import encode_with_ends
from prealign_cpt.text.reader import read_documents

Read = list[tuple[list[int], list[int], list[float]]]
"""Of each window the token ids, where each ends in characters, and its nats."""


@torch.no_grad()
def read(folder: Path, texts: list[str], start_token: str) -> Read:
    """What a model makes of some windows, each behind the start token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = tokenizer.convert_tokens_to_ids(start_token)
    model = LanguageModelLoss(load_whole(folder, torch.bfloat16)).eval()
    found = []
    for ids, ends in encode_with_ends(tokenizer, texts):
        inputs = torch.tensor([[start, *ids]])
        nats = model(inputs, inputs, torch.arange(inputs.shape[1])[None], each=True)
        found.append((ids, ends, nats.tolist()))
    return found


def kinds(base: Read, extended: Read, texts: list[str], num_old: int) -> dict[str, list[float]]:
    """By kind: segments, nats of the base, nats of the extended model."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for text, (_, ends, nats), (ids, new_ends, new_nats) in zip(texts, base, extended, strict=True):
        seen: set[str] = set()
        begin, after_new = 0, False
        for end in sorted(set(ends) & set(new_ends)):
            theirs = sum(n for n, e in zip(nats, ends, strict=True) if begin < e <= end)
            places = [i for i, e in enumerate(new_ends) if begin < e <= end]
            new = any(ids[i] >= num_old for i in places)
            segment = text[begin:end]
            name = f"{'new' if new else 'old'} after {'new' if after_new else 'old'}, "
            name += "repeated" if segment in seen else "first"
            for i, value in enumerate((1.0, theirs, sum(new_nats[i] for i in places))):
                sums[name][i] += value
            seen.add(segment)
            begin, after_new = end, new
    return dict(sorted(sums.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("extended", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--old-tokens", type=int, required=True, help="size of the base's vocabulary")
    parser.add_argument("--start-token", default="<|endoftext|>")
    parser.add_argument("--max-bytes", type=int, default=24_000)
    options = parser.parse_args()
    texts = windows(read_documents([options.text]), 1024, options.max_bytes)
    size = sum(len(text.encode()) for text in texts)
    found = [read(folder, texts, options.start_token) for folder in (options.base, options.extended)]
    sums = kinds(*found, texts, options.old_tokens)
    scale = 1 / (math.log(2) * size)
    totals = [sum(sum(nats) for *_, nats in part) * scale for part in found]
    table = {
        name: {
            "segments": int(count),
            "base_nats": round(theirs / count, 3),
            "extended_nats": round(ours / count, 3),
            "lost_bpb": round((ours - theirs) * scale, 4),
        }
        for name, (count, theirs, ours) in sums.items()
    }
    print(json.dumps({"bytes": size, "base_bpb": totals[0], "extended_bpb": totals[1], "kinds": table}))


if __name__ == "__main__":
    main()
