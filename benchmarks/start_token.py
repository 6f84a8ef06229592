"""What does a text cost a model when the start token is missing in front of it?

python benchmarks/start_token.py smollm2-135m '<|endoftext|>' German=deu.txt English=eng.txt

Each line of a file is a text of its own. A line's first token can only be scored with a token in front of it, so it is
left out both times: the same tokens are compared, and the difference is what the missing token does to the rest.
"""

import argparse
import math
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.load import load_whole


@torch.inference_mode()
def nats(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Negative log-likelihood of every token but the first, float32."""
    logits = model(torch.tensor([ids])).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a missing start token costs, in bits per byte.")
    parser.add_argument("model", help="a name, folder or hub id of a model")
    parser.add_argument("start_token")
    parser.add_argument("texts", nargs="+", metavar="NAME=FILE", help="a text a line")
    parser.add_argument("--lines", type=int, default=200)
    options = parser.parse_args()
    folder = resolve_base(options.model)
    model, tokenizer = load_whole(folder).eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = tokenizer.convert_tokens_to_ids(options.start_token)
    print("| text | lines | bytes | with | without | costs |\n|---|---|---|---|---|---|")
    for name, _, path in (text.partition("=") for text in options.texts):
        size, sums = 0, [0.0, 0.0]
        lines = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
        for line in islice(lines, options.lines):
            ids = tokenizer.encode(line, add_special_tokens=False)
            size += len(line.encode()) - len(tokenizer.decode(ids[:1]).encode())
            sums[0] += float(nats(model, [start, *ids])[1:].sum())
            sums[1] += float(nats(model, ids).sum())
        bits = [value / math.log(2) / size for value in sums]
        count = min(len(lines), options.lines)
        print(f"| {name} | {count} | {size:,} | {bits[0]:.4f} | {bits[1]:.4f} | {bits[1] - bits[0]:+.4f} |", flush=True)


if __name__ == "__main__":
    main()
