"""A small English model for the laboratory: `python benchmarks/small_base.py TEXT... --out FOLDER`.

    text --every tenth to third document--> FOLDER/rest.txt        (unseen English, for `prealign clone`)
         --the others--> byte-level BPE, packed rows, a Llama trained from scratch --> FOLDER (Hugging Face)

The alignment method is about models that know English already. This makes one that knows some English and is small
enough for a grid of runs on a CPU. Prints one JSON object at the end; the model has an untied head.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.data.codeswitch import Switched
from prealign_cpt.data.mixture import Mixture, PackedText, positions
from prealign_cpt.data.pack import encode_many, pack
from prealign_cpt.model.bits import batches, score, windows
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.text.reader import read_documents
from prealign_cpt.vocab.families import BYTE_OF

START = "<|endoftext|>"
REST = 3
"""Of ten documents, so many are kept from the model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--batch", type=int, default=16, help="sequences of --length tokens in a step")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    documents = list(read_documents(options.text))
    known = [d for i, d in enumerate(documents) if i % 10 >= REST]
    rest = [d for i, d in enumerate(documents) if i % 10 < REST]
    tokenizer = make_tokenizer(known, options.vocab)
    start = tokenizer.convert_tokens_to_ids(START)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=options.hidden,
            intermediate_size=3 * options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.hidden // 32,
            num_key_value_heads=options.hidden // 32,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=start,
            eos_token_id=start,
        )
    )
    module = LanguageModelLoss(model)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pieces = map(Switched.unchanged, encode_many(known, tokenizer, start))
        pack(pieces, options.length, Path(folder) / "english")
        mixture = Mixture([PackedText(Path(folder))], [], 0.0, 0)
        train(module, mixture, start, options)
    seconds = time.monotonic() - began
    held_out = windows(rest, 1024, 200_000)
    found = score(module, batches(held_out, tokenizer, start, 4096))
    options.out.mkdir(parents=True, exist_ok=True)
    model.generation_config.pad_token_id = start
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "rest.txt").write_text("\n\n".join(rest) + "\n", encoding="utf-8")
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": options.tokens,
        "english_bpb": round(found.bits_per_byte, 4),
        "seconds": round(seconds),
        "settings": {k: v for k, v in vars(options).items() if k not in ("text", "out")},
    }
    (options.out / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def make_tokenizer(documents: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the GPT-2 kind, learned from the documents."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[START], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(documents, trainer)
    content = json.loads(backend.to_str())
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if not torn(*pair)]
    backend = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=START)


def torn(left: str, right: str) -> bool:
    """Whether a merge joins a part of a character with its neighbour ("\xb3n" of "\xf3n"); no clone could mirror it."""
    data = bytes(BYTE_OF[letter] for letter in left + right)
    return not data.isascii() and any(byte < 0x80 for byte in data) and not _whole(data)


def _whole(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def train(module: LanguageModelLoss, mixture: Mixture, start: int, options: argparse.Namespace) -> None:
    """AdamW with warm-up and a cosine down to a tenth."""
    steps = options.tokens // (options.batch * options.length)
    optimizer = torch.optim.AdamW(module.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        warm = min(1.0, (step + 1) / (0.05 * steps))
        rate = options.lr * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, labels = mixture.rows(list(range(step * options.batch, (step + 1) * options.batch)))[:2]
        loss = module(inputs, labels, positions(inputs, start)) / (labels[:, 1:] != -100).sum()
        loss.backward()
        clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}", flush=True)


if __name__ == "__main__":
    main()
