"""Writes docs/scale.md, what grows with a model: `python -m docs.scale`. A test says when it is not current."""

from pathlib import Path
from typing import Any

from prealign_cpt.advise.memory import RESERVE, Setting, Shape, peak

PAGE = Path(__file__).with_name("scale.md")

Row = tuple[str, str, str, float, float, str]

TOKENS = 4096
PLACES = {"1 x 24 GB": (1, 24), "1 x 80 GB": (1, 80), "8 x 80 GB": (8, 80), "64 x 80 GB": (64, 80)}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, 8-bit moments": {"optimizer": "adamw8bit"},
    "lora": {"method": "lora"},
    "qlora": {"method": "qlora"},
    "rows": {"method": "rows"},
}


def llama(hidden: int, inner: int, layers: int, keys: int, tied: bool) -> Shape:
    """The sizes of a Llama 3 with its vocabulary of 128,256."""
    head = 128_256 * hidden
    block = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden
    return Shape(layers * block + hidden, head * (1 if tied else 2), head, layers, hidden, inner, keys, 128_256)


MODELS = {
    "1B": llama(2048, 8192, 16, 512, tied=True),
    "3B": llama(3072, 8192, 28, 1024, tied=True),
    "8B": llama(4096, 14_336, 32, 1024, tied=False),
    "70B": llama(8192, 28_672, 80, 1024, tied=False),
}

HEAD = f"""# What grows with the model

Written by `python -m docs.scale`; the bytes are those of `peak` in prealign_cpt/advise/memory.py.

## Memory of a GPU

GB that a GPU needs at the peak of a training step, {RESERVE / 1e9:.1f} GB for context and fragments among them: Llama 3
of each size, bf16, a micro-batch of {TOKENS:,} tokens, `checkpoint_activations = "full"`, 16,384 new tokens, LoRA of
rank 16, one model shared by all GPUs. In brackets: it does not fit.

"""

MIDDLE = """
`prealign init` chooses by the same function, and the start of a run on a GPU warns by it.

- *Measured*: method full, in fp32 and bf16, with and without recomputed activations: bytes of tensors as torch's
  allocator counts them, within a tenth of the formula on one rank (tests/advise/test_memory.py, a Llama of 4 M
  parameters). At 135 M parameters, as the system counts them, 20 MB of libraries among them: 1.06 of the formula on one
  rank, 1.04 (nothing recomputed) and 1.00 (blocks recomputed) on two gloo ranks, 1.12 and 1.03 on four
  (benchmarks/memory.py, 2026-11-28, figures in benchmarks/results/memory.jsonl; gloo's copy of what it reduces was
  added to the formula after them). The difference between CPU and GPU, that a block's weights are gathered for its turn
  only, is reasoned.
- *Reasoned*: 8-bit moments (2 bytes and 8 / 256 a parameter of the body), and the other methods: their counts are those
  of the same parts, with 2 bytes (nf4: 0.56, whole on every GPU) for what stands still and 16 for what moves;
  `train.offload`, which takes all of these but nf4 off the GPU.

## Everything else that grows

P parameters, N GPUs, R replicas, V tokens of the vocabulary. 8B and 70B with one replica.

| what | where | formula | 8B on 8 | 70B on 64 | how known |
|---|---|---|---|---|---|
"""

TAIL = """
What still does not scale: first rows, calibration and scoring, the function check of an export and the evaluation hold
the whole model in one process, on the CPU where the GPU is too small for it; the look at a base before its first run
does so in fp32. With `align.trains = "all"` or `"embeddings"` every rank of the alignment holds it.
"""


def page() -> str:
    """The page as it should be."""
    rows = [f"| {' | '.join(['model', 'method', *PLACES])} |", "|---" * (2 + len(PLACES)) + "|"]
    for name, shape in MODELS.items():
        for method, how in METHODS.items():
            cells = [_cell(shape, how, *place) for place in PLACES.values()]
            rows.append(f"| {' | '.join([name, method, *cells])} |")
    return HEAD + "\n".join(rows) + "\n" + MIDDLE + "\n".join(map(_row, _growing())) + "\n" + TAIL


def _cell(shape: Shape, how: dict[str, Any], devices: int, size: int) -> str:
    needed = (peak(shape, Setting(shards=devices, tokens=TOKENS, **how))["all"] + RESERVE) / 1e9
    return f"{needed:.0f}" if needed <= size else f"({needed:.0f})"


def _growing() -> list[Row]:
    """What grows, where, its formula, GB for 8B on 8 GPUs and for 70B on 64, and how that is known."""
    cases = [(MODELS["8B"], 8), (MODELS["70B"], 64)]

    def row(what: str, where: str, formula: str, bytes_of: Any, known: str) -> Row:
        one, other = (bytes_of(shape, n) / 1e9 for shape, n in cases)
        return what, where, formula, one, other, known

    return [
        row("weights, gradients, moments", "each GPU", "16 P R / N", lambda s, n: 16 * s.parameters / n, "measured"),
        row(
            "gradients between micro-batches", "each GPU", "4 P R / N", lambda s, n: 4 * s.parameters / n,
            "measured, 2 and 4 ranks, replicas too (tests/train/test_shard.py)",
        ),
        row(
            "gathered weights", "each GPU", "2 (tables + 2 blocks)",
            lambda s, _: 2 * (s.tables + 2 * s.body / s.layers), "reasoned",
        ),
        row("logits of a chunk", "each GPU", "8 * 1024 V", lambda s, _: 8 * 1024 * s.vocabulary, "measured"),
        row("reading weights", "each host", "own rows of a tensor", lambda s, n: 4 * s.head / n, "measured, 2 ranks"),
        row("copy of a checkpoint", "each rank's host", "12 P / N", lambda s, n: 12 * s.parameters / n, "reasoned"),
        row("checkpoints on disk", "disk", "12 P, two of them", lambda s, _: 24 * s.parameters, "reasoned"),
        row(
            "verifying a checkpoint", "read by each rank", "12 P / N", lambda s, n: 12 * s.parameters / n,
            "measured, 2 ranks (tests/train/test_checkpoint.py)",
        ),
        row(
            "writing an export", "one process", "a file of 5 GB and a tensor",
            lambda s, _: 5e9 + 6 * s.head, "measured: the bytes of a file (tests/export/test_stream.py)",
        ),
        row("function check of an export", "one process", "4 P", lambda s, _: 4 * s.parameters, "reasoned"),
        row(
            "alignment of new rows", "each GPU", "2 (body / N + tables + 10 blocks)",
            lambda s, n: 2 * (s.body / n + s.tables + 10 * s.body / s.layers),
            "measured, 2 and 4 ranks (tests/align/test_spread.py)",
        ),
        row("first rows, calibration, scoring", "one process", "2 P", lambda s, _: 2 * s.parameters, "reasoned"),
        row("folders init and align", "disk", "4 P each", lambda s, _: 8 * s.parameters, "reasoned"),
    ]  # fmt: skip


def _row(cells: Row) -> str:
    what, where, formula, one, other, known = cells
    return f"| {what} | {where} | {formula} | {one:.1f} GB | {other:.1f} GB | {known} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
