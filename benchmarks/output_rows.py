"""Output rows by themselves: how well the base predicts new tokens from states that it made of its own, old ones.

    python benchmarks/output_rows.py RECIPE [--KEY VALUE ...]

Trains nothing. Makes the vocabulary of the recipe, reads the training text as the calibration does and the validation
text at every place where a token begins, and prints bits per byte of it (validation text, at most evaluate.max_bytes)
for the base's own tokens and for the new ones with rows as they are, calibrated, and moved by discriminants too.
"""

import math
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.align.calibrate import CALIBRATED, ENGLISH_PLACES, TARGET_PLACES, counts_of, expected, shifted
from prealign_cpt.align.discriminant import discriminants
from prealign_cpt.align.initialize import run_dtype
from prealign_cpt.align.mixture import first_piece_mixture, old_pieces
from prealign_cpt.align.rows import FIRST_PIECE
from prealign_cpt.align.states import NOTHING, States, read_states
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.bits import windows
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.tokens import num_ids, start_token_id, token_texts
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.text.reader import read_documents
from prealign_cpt.vocab.build import build_vocab


@torch.no_grad()
def main() -> None:
    recipe = load_recipe(Path(sys.argv[1]), sys.argv[2:])
    base = resolve_base(recipe.base.model)
    out = Path(tempfile.mkdtemp()) / "vocab"
    out.mkdir()
    build_vocab(recipe, base, out)
    old_tokenizer, tokenizer = (AutoTokenizer.from_pretrained(folder, local_files_only=True) for folder in (base, out))
    model, start, old = (
        load_whole(base, run_dtype(recipe)).eval(),
        start_token_id(tokenizer, recipe),
        num_ids(old_tokenizer),
    )
    pieces = old_pieces(token_texts(tokenizer)[old:], old_tokenizer, tokenizer)
    head = model.get_output_embeddings().weight[:old].float()
    target, english = (list(read_documents(recipe.paths(names))) for names in (recipe.text.target, recipe.text.english))
    limits = recipe.evaluate
    held_out = windows(read_documents([recipe.path(recipe.text.valid_target)]), limits.window_bytes, limits.max_bytes)

    def states(documents: list[str], places: int, scored: int) -> States:
        return read_states(model, old_tokenizer, tokenizer, documents, places, scored, start, recipe.seed)

    whole, other = states(target, TARGET_PLACES, CALIBRATED), states(english, ENGLISH_PLACES, CALIBRATED)
    valid, text = states(held_out, 10**9, 10**9), whole.first(CALIBRATED)
    print(f"{len(pieces)} new tokens; validation text: {valid.bytes} bytes, {len(valid.hidden_ND)} tokens", flush=True)
    counts = counts_of(tokenizer, target)
    wanted = expected(text, head, pieces, counts)
    rows = first_piece_mixture(pieces, FIRST_PIECE).times(head)
    told = rows + discriminants(whole, pieces)
    frequencies = expected(text, head, [[] for _ in pieces], counts)
    variants = {
        "first piece and mean": rows,
        "calibrated": shifted(rows, wanted, text, other),
        "discriminants, calibrated": shifted(told, wanted, text, other),
        "discriminants, calibrated by frequencies alone": shifted(told, frequencies, text, other),
        "discriminants, calibrated by first pieces alone": shifted(told, 2 * wanted - frequencies, text, other),
    }
    share = (valid.next_new_N != NOTHING).double().mean().item()
    print(f"new tokens stand at {share:.3f} of the places", flush=True)
    for name, values in variants.items():
        print(f"{name}: {bits(valid, head, values):.4f}, new tokens expected {valid.mass(values):.3f}", flush=True)


def bits(states: States, head_VD: torch.Tensor, rows_MD: torch.Tensor) -> float:
    """Bits per byte of the tokens that follow the states."""
    nats = 0.0
    parts = (states.hidden_ND, states.old_N, states.next_old_N, states.next_new_N)
    for hidden, known, following, new in zip(*(part.split(256) for part in parts), strict=True):
        logits = hidden @ rows_MD.T
        total = torch.logaddexp(known, logits.logsumexp(dim=1))
        chosen = torch.where(
            new == NOTHING, (hidden * head_VD[following]).sum(dim=1), logits.gather(1, new.clamp(min=0)[:, None])[:, 0]
        )
        nats += float((total - chosen).sum())
    return nats / math.log(2) / states.bytes


if __name__ == "__main__":
    main()
