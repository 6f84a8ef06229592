"""Rows of conversations: what is learned in them, and that any number of ranks learns the same."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from prealign_cpt.chat.crossing import Conversations
from prealign_cpt.chat.instructions import Item
from prealign_cpt.chat.render import Renderer
from prealign_cpt.chat.rows import Rows, answer_batch, write_rows
from prealign_cpt.model.bits import score
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import IGNORED, LanguageModelLoss
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import DataError
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.chat.conftest import tokenizer_of
from tests.conftest import ENGLISH, TARGET, make_model, run_ranks

LENGTH, ROWS, PAD = 160, 5, 0
RECIPE = Train(steps=2, sequences=2, micro_batch=1, lr=1e-3, precision="fp32", eval_every=9, save_every=9)


def _conversations() -> Conversations:
    def plain(asked: str, answer: str) -> Any:
        return ("user", asked), ("assistant", answer)

    lines = [[text.split(". ")[0] for text in side] for side in (ENGLISH, TARGET)]
    items = [Item(plain(lines[0][i], lines[0][i - 1]), plain(lines[1][i], lines[1][i - 1])) for i in range(5)]
    return Conversations(items, list(zip(*lines, strict=True)), "German", 0.5, 0.25, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and rows for it."""
    folder = tmp_path_factory.mktemp("rows")
    tokenizer = tokenizer_of("chatml")
    make_model(len(tokenizer)).save_pretrained(folder / "model")
    counts = write_rows(_conversations(), Renderer(tokenizer), ROWS, LENGTH, PAD, folder / "rows")
    assert counts["conversations"] >= ROWS and counts["longer"] == counts["unclear"] == 0
    return folder


def test_conversations_stand_whole_in_the_rows_in_their_order(folder: Path) -> None:
    inputs, labels, places = Rows(folder / "rows").documents(list(range(ROWS)), 99)
    renderer, some, n = Renderer(tokenizer_of("chatml")), _conversations(), 0
    for row in range(ROWS):
        starts = [*torch.nonzero(places[row] == 0).flatten().tolist(), LENGTH]
        for begin, end in pairwise(starts):
            if end == LENGTH and (labels[row, begin:] == IGNORED).all():
                assert (inputs[row, begin:] == PAD).all()
                continue
            example = renderer.example(some[n])
            assert example is not None
            ids, learned = example
            assert inputs[row, begin:end].tolist()[: len(ids)] == ids.tolist()
            assert torch.equal(labels[row, begin : begin + len(ids)] != IGNORED, torch.from_numpy(learned))
            assert labels[row, begin] == IGNORED, "the end of one conversation would predict the next"
            n += 1
    assert n > ROWS


def _loss(folder: Path, row: int) -> tuple[float, int]:
    """Of each conversation of a row by itself, through transformers alone: summed nats of the answers, and targets."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    inputs, labels, places = Rows(folder / "rows").documents([row], 0)
    starts = [*torch.nonzero(places[0] == 0).flatten().tolist(), LENGTH]
    nats, targets = 0.0, 0
    for begin, end in pairwise(starts):
        ids, wanted = inputs[:, begin:end], labels[0, begin + 1 : end]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        nats += float(F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum"))
        targets += int((wanted != IGNORED).sum())
    return nats, targets


def _steps(rank: int, size: int, folder: Path) -> list[tuple[float, int]]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        module = sharded(folder / "model", world, "fp32")
        optimizer, guard, rows = make_optimizer(module, RECIPE), SpikeGuard(), Rows(folder / "rows")
        found = [train_step(module, optimizer, rows, step, RECIPE, 99, world, guard) for step in range(2)]
        return [(one.loss, one.targets) for one in found]


def test_two_ranks_learn_what_one_does(folder: Path) -> None:
    two = run_ranks(2, _steps, folder)
    (one,) = run_ranks(1, _steps, folder)
    assert two[0] == two[1]
    for (a, count), (b, same) in zip(one, two[0], strict=True):
        assert count == same and a == pytest.approx(b, rel=1e-5)
    sums = np.array([_loss(folder, row) for row in range(RECIPE.sequences)]).sum(0)
    assert one[0] == (pytest.approx(sums[0] / sums[1], rel=1e-4), sums[1])


def test_answers_are_scored_by_their_bytes(folder: Path) -> None:
    renderer = Renderer(tokenizer_of("chatml"))
    asked = [(("user", "Wo?"), ("assistant", "Über dem Fluß.")), (("user", "Who is there?"), ("assistant", "I."))]
    batch = answer_batch(asked, renderer, PAD)
    assert batch.bytes == len("Über dem Fluß.".encode()) + 2
    model = load_whole(folder / "model")
    apart = [score(LanguageModelLoss(model), [answer_batch([one], renderer, PAD)]) for one in asked]
    together = score(LanguageModelLoss(model), [batch])
    assert together.nats == pytest.approx(apart[0].nats + apart[1].nats, rel=1e-5)


def test_conversations_that_never_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"longer than chat\.sequence_length \(8\)"):
        write_rows(_conversations(), Renderer(tokenizer_of("chatml")), 2, 8, PAD, tmp_path / "rows")
