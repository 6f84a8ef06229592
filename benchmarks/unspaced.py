"""How long learning takes in much text without spaces.

    python benchmarks/unspaced.py ENGLISH FILE BASE [MEGABYTES [PIECES]] >> results/unspaced.jsonl

FILE has sentences in a script without spaces, such as FLORES's; lines of any amount are made of stretches of three to
nine characters from random places, so that hardly a part of a sentence occurs twice, as in real text. BASE is a folder
with a tokenizer, or `smollm2-135m`. One line of JSON: seconds by the clock and of the processor, and the most memory.
"""

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from prealign_cpt.model.base import resolve_base
from prealign_cpt.vocab.grow import grow_tokenizer


def made(sentences: str, size: int) -> Iterator[str]:
    """Lines of 600 stretches, of so many bytes together."""
    draw = random.Random(0)
    while size > 0:
        starts = (draw.randrange(len(sentences) - 9) for _ in range(600))
        line = "".join(sentences[at : at + draw.randint(3, 9)] for at in starts)
        size -= len(line.encode())
        yield line


def main() -> None:
    english, file, base = sys.argv[1:4]
    megabytes, pieces = (int(text) for text in [*sys.argv[4:], "100", "8000"][:2])
    target = made(Path(file).read_text(encoding="utf-8").replace("\n", ""), megabytes * 1_000_000)
    guard = Path(english).read_text(encoding="utf-8").splitlines()
    folder_of_base = Path(base) if Path(base).is_dir() else resolve_base(base)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        growth = grow_tokenizer(folder_of_base, target, guard, pieces, Path(folder) / "out", "auto")
    used = resource.getrusage(resource.RUSAGE_SELF)
    facts = {
        "base": base,
        "text": Path(file).name,
        "megabytes": megabytes,
        "pieces": len(growth.tokens),
        "seconds": round(time.monotonic() - began),
        "processor_seconds": round(used.ru_utime + used.ru_stime),
        "memory_mb": used.ru_maxrss // 1024,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
