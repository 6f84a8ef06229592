"""Rows of one peer, or of a plain control, as a file for `align.init = "file"`.

    python benchmarks/peers.py wechsel --base FOLDER --vocab FOLDER --text target.txt --english-text english.txt \
        --lexicon en-de.tsv --out rows.safetensors

The controls `random`, `noisy-mean` and `hf-mean` need the package's own environment only. The peers are used through
their published packages, in an environment that holds them beside torch and transformers:

- `wechsel` 0.0.4 (Minixhofer et al., 2112.06598): its defaults, on fastText vectors of both texts and our lexicon.
- `focus`, package deepfocus 1.0.1 (Dobler & de Melo, 2305.14481): its own fastText training on the target text.
- `trans-tokenizers` 0.1.4 (Remy et al.): mapping by alignment counts. There is no parallel text, so the pairs of the
  lexicon are given as alignments, `FAKED_COUNT` times each since it drops rarer ones. With transformers 5 its
  `remap_model` asks tokenizers for an attribute that is gone; an empty one is put there.

All peers compute rows for the whole grown vocabulary and change old ones. Only the rows of new tokens are kept, so the
original rows are restored. What a peer draws at random for tokens it does not cover stays as it is, and is counted.
The last line of the output is one JSON object: CPU seconds without loading, how many of them trained word vectors, and
the peak memory of the process.
"""

import argparse
import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.align.rows import old_tables
from prealign_cpt.lexicon.stage import read_pairs

VECTORS: dict[str, Any] = {"dim": 100, "neg": 10, "model": "cbow", "minn": 5, "maxn": 5}
"""WECHSEL's own settings of fastText; epochs are given on the command line, as is FOCUS's."""

FAKED_COUNT = 10
"""Alignments that are rarer are dropped by trans-tokenizers."""


def random_rows(table_VD: Tensor, num_new: int, seed: int) -> Tensor:
    """Draws from the normal distribution of each dimension of the old rows: the fallback of FOCUS and WECHSEL."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_new, table_VD.shape[1], generator=generator)
    return table_VD.mean(dim=0) + table_VD.std(dim=0) * noise


def noisy_mean_rows(table_VD: Tensor, num_new: int, seed: int) -> Tensor:
    """The mean row and noise of standard deviation 1 / sqrt(hidden size), as LLaMA-Factory does for added tokens."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_new, table_VD.shape[1], generator=generator)
    return table_VD.mean(dim=0) + noise / math.sqrt(table_VD.shape[1])


class Peers:
    """The peers on one base model, one grown tokenizer and one pair of texts.

    Each method returns the rows of all tables that are given, new tokens only, and puts notes into `found`.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.old: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(arguments.base)
        self.new: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(arguments.vocab)
        self.num_new = len(self.new) - len(self.old)
        self.found: dict[str, Any] = {}

    def random(self, tables: list[Tensor]) -> list[Tensor]:
        return [random_rows(table, self.num_new, self.arguments.seed + i) for i, table in enumerate(tables)]

    def noisy_mean(self, tables: list[Tensor]) -> list[Tensor]:
        return [noisy_mean_rows(table, self.num_new, self.arguments.seed + i) for i, table in enumerate(tables)]

    def hf_mean(self, tables: list[Tensor]) -> list[Tensor]:
        """`resize_token_embeddings` as it comes (mean_resizing=True)."""
        torch.manual_seed(self.arguments.seed)
        model = AutoModelForCausalLM.from_pretrained(self.arguments.base, dtype=torch.float32)
        model.resize_token_embeddings(len(self.old))
        model.resize_token_embeddings(len(self.new))
        return self._new_rows(model, len(tables))

    def wechsel(self, tables: list[Tensor]) -> list[Tensor]:
        from wechsel import WECHSEL

        english = self._fasttext(self._text(self.arguments.english_text, "english.txt"))
        target = self._fasttext(self._text(self.arguments.text, "target.txt"))
        # Its reader splits a line without a tab at spaces and cannot take phrases on both sides; ours always have one.
        dictionary = self._write("dictionary.txt", [f"{p.source}\t{p.target}" for p in self._pairs()])
        wechsel = WECHSEL(english, target, bilingual_dictionary=str(dictionary))
        rows = []
        for table in tables:
            matrix, info = wechsel.apply(self.old, self.new, table.numpy())
            rows.append(torch.from_numpy(matrix)[len(self.old) :])
        new = set(self.new.convert_ids_to_tokens(range(len(self.old), len(self.new))))
        self.found["random_rows"] = sum(token in new for token in info.not_found)
        return rows

    def focus(self, tables: list[Tensor]) -> list[Tensor]:
        # It keeps trained vectors by the name of the text file; a folder of its own keeps runs apart.
        os.environ["XDG_CACHE_HOME"] = str(self.folder)
        os.environ["HF_HOME"] = str(self.folder / "datasets")
        from deepfocus import FOCUS
        from deepfocus.fasttext_embs import load_target_token_embedding

        text, model = self._text(self.arguments.text, "target.txt"), self.folder / "tokens.bin"
        began = time.process_time()
        vectors = load_target_token_embedding(
            self.new, str(text), epochs=self.arguments.epochs, dim=100, min_count=self.arguments.min_count, processes=1
        )
        vectors.save_model(str(model))
        self.found["vectors_cpu_s"] = round(time.process_time() - began, 1)
        new = self.new.convert_ids_to_tokens(range(len(self.old), len(self.new)))
        self.found["random_rows"] = sum(token not in vectors for token in new)
        return [
            FOCUS(
                target_tokenizer=self.new,
                source_tokenizer=self.old,
                source_embeddings=table,
                fasttext_model_path=str(model),
                seed=self.arguments.seed,
                verbosity="silent",
            )[len(self.old) :]
            for table in tables
        ]

    def trans_tokenizers(self, tables: list[Tensor]) -> list[Tensor]:
        from transtokenizers import map_tokens, remap_model, smooth_mapping

        lines = []
        for pair in self._pairs():
            for source, target in {(pair.source, pair.target), (pair.source.capitalize(), pair.target.capitalize())}:
                # Its units are words whose pieces are joined by a long dash.
                sides = "—".join(self.old.tokenize(f" {source}")), "—".join(self.new.tokenize(f" {target}"))
                lines.append(f"{sides[0]}\t{sides[1]}\t0.0\t{FAKED_COUNT}")
        alignments = self._write("alignments.tsv", lines)
        base, vocab = str(self.arguments.base), str(self.arguments.vocab)
        mapping, _ = map_tokens(str(alignments), base, vocab)
        new = self.new.convert_ids_to_tokens(range(len(self.old), len(self.new)))
        self.found["mapped_by_lexicon"] = sum(token in mapping for token in new)
        smoothed = smooth_mapping(vocab, mapping)
        self.found["unknown_rows"] = sum(parts == [(self.new.unk_token, 1.0)] for _, parts in smoothed[len(self.old) :])
        kind = type(self.new)
        if not hasattr(self.new, "additional_special_tokens_ids"):
            kind.additional_special_tokens_ids = ()  # type: ignore[attr-defined]
        return self._new_rows(remap_model(base, vocab, smoothed, base), len(tables))

    @property
    def folder(self) -> Path:
        return Path(self.arguments.scratch)

    def _new_rows(self, model: Any, num_tables: int) -> list[Tensor]:
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        return [layer.weight.detach()[len(self.old) : len(self.new)].float() for layer in layers[:num_tables]]

    def _pairs(self) -> list[Any]:
        if self.arguments.lexicon is None:
            raise SystemExit(f"{self.arguments.peer}: needs --lexicon")
        return read_pairs(self.arguments.lexicon)

    def _text(self, paths: list[Path], name: str) -> Path:
        """The beginnings of some texts, as one file of lines."""
        if not paths:
            raise SystemExit(f"{self.arguments.peer}: needs a text for {name}")
        lines = []
        for path in paths:
            with path.open("rb") as file:
                beginning = file.read(self.arguments.max_bytes // len(paths)).decode("utf-8", errors="ignore")
            lines += [line for line in beginning.splitlines() if line.strip()]
        return self._write(name, lines)

    def _write(self, name: str, lines: list[str]) -> Path:
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _fasttext(self, text: Path) -> Any:
        import fasttext

        began = time.process_time()
        # One thread: with more, the vectors differ from run to run.
        model = fasttext.train_unsupervised(str(text), epoch=self.arguments.epochs, thread=1, verbose=0, **VECTORS)
        self.found["vectors_cpu_s"] = round(self.found.get("vectors_cpu_s", 0.0) + time.process_time() - began, 1)
        return model


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "peer", choices=["random", "noisy-mean", "hf-mean", "wechsel", "focus", "trans-tokenizers"], help="whose rows"
    )
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--vocab", type=Path, required=True, help="folder of the grown tokenizer")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="plain text in the target language")
    parser.add_argument("--english-text", type=Path, nargs="+", default=[], help="plain English text, for wechsel")
    parser.add_argument("--lexicon", type=Path, help="TSV, English to target, for wechsel and trans-tokenizers")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--max-bytes", type=int, default=16_000_000, help="of each language, read so much")
    parser.add_argument("--epochs", type=int, default=5, help="of fastText")
    parser.add_argument("--min-count", type=int, default=5, help="occurrences that focus wants of a token")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
    peers = Peers(arguments)
    tables = [table for table in old_tables(model, len(peers.old)) if table is not None]
    del model
    make: Callable[[list[Tensor]], list[Tensor]] = getattr(peers, arguments.peer.replace("-", "_"))
    with tempfile.TemporaryDirectory() as arguments.scratch:
        began = time.process_time()
        rows = make(tables)
        seconds = time.process_time() - began
    for table in rows:
        assert table.shape == (peers.num_new, tables[0].shape[1]) and table.isfinite().all()
    save_file(
        {name: table.float().contiguous() for name, table in zip(("input", "output"), rows, strict=False)},
        arguments.out,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"method": arguments.peer, "cpu_s": round(seconds, 1), "peak_mb": peak, **peers.found}))


if __name__ == "__main__":
    main()
