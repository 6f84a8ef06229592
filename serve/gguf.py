"""Convert an export to GGUF with llama.cpp's own converter, which does not recognise every grown tokenizer.

python serve/gguf.py llama.cpp/convert_hf_to_gguf.py runs/NAME/export BASE --outfile model.gguf [--outtype bf16 ...]

The converter finds out how a byte-level tokenizer cuts text into words by hashing the ids of a test string, which new
tokens change. Growing adds tokens and merges; how text is cut stays the base's. So: prove that, then let the converter
hash the base's tokenizer, and leave everything else to it. Runs in the converter's environment (transformers 4), with
nothing of this package. BASE is the folder of the base model or of its tokenizer. The converter reads a SentencePiece
export's tokenizer.model and needs no help.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


def same_cut(export: Path, base: Path) -> None:
    """Raise SystemExit unless both tokenizers cut text alike before any merge, and the base's tokens keep their ids."""
    grown, old = (json.loads(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str()) for folder in (export, base))
    for part in ("normalizer", "pre_tokenizer"):
        if grown[part] != old[part]:
            sys.exit(
                f"{export}: its {part} is not that of {base}; name the base that the tokenizer was grown from. If its "
                "README.md says that it keeps the words of a script whole, llama.cpp cannot read it: grow it with "
                'vocab.pretokenizer = "base"'
            )
    ids, own = grown["model"]["vocab"], old["model"]["vocab"]
    if any(ids.get(token) != number for token, number in own.items()):
        sys.exit(f"{export}: tokens of {base} have other ids there; name the base that the tokenizer was grown from")
    if grown["model"].get("ignore_merges") and not old["model"].get("ignore_merges"):
        sys.exit(
            f"{export}: llama.cpp looks whole words up for some tokenizers only (Llama 3's is one), not for this one; "
            'grow it by vocab.kind = "merges"'
        )


def load_converter(path: Path) -> Any:
    """The converter's module, with its folder's packages before all others."""
    if not path.is_file():
        sys.exit(f"{path}: no such file; give llama.cpp's convert_hf_to_gguf.py, with its whole repository around it")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert an export with llama.cpp's converter.")
    parser.add_argument("converter", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("base", type=Path)
    options, rest = parser.parse_known_args()
    same_cut(options.export, options.base)
    converter = load_converter(options.converter)

    from conversion.base import TextModel  # of llama.cpp, found through load_converter
    from transformers import PreTrainedTokenizerFast

    recognise = TextModel.get_vocab_base_pre
    # By its file: a base that transformers 5 saved names a class that transformers 4 does not know.
    base = PreTrainedTokenizerFast(tokenizer_file=str(options.base / "tokenizer.json"))
    TextModel.get_vocab_base_pre = lambda self, tokenizer: recognise(self, base)
    sys.argv = [str(options.converter), str(options.export), *rest]
    converter.main()


if __name__ == "__main__":
    main()
