"""What training takes, held against what it took; and what fits where."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prealign_cpt.advise.memory import Machine, Setting, Shape, chosen_activations, fits, peak, shape_of, too_large
from prealign_cpt.model.load import load_whole
from prealign_cpt.recipe.schema import Train
from tests.conftest import make_model, run_ranks
from tests.train.measured import peak as measured
from tests.train.measured import write

LENGTH = 64
LLAMA_1B = Shape(973_146_112, 262_668_288, 262_668_288, 16, 2048, 8192, 512, 128_256)
LLAMA_8B = Shape(6_979_588_096, 1_050_673_152, 525_336_576, 32, 4096, 14_336, 1024, 128_256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model"), make_model(3000, tied=False, layers=4, hidden=256), LENGTH)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("precision", "recomputed", "rows"),
    [("fp32", "none", 8), ("bf16", "none", 8), ("fp32", "full", 1), ("bf16", "full", 8), ("bf16", "selective", 8)],
)
def test_the_formula_is_about_what_ranks_held(
    folder: Path, size: int, precision: Any, recomputed: Any, rows: int
) -> None:
    options = {"precision": precision, "checkpoint_activations": recomputed, "micro_batch": rows}
    # Threads of gloo hold the buffer of a group longer or not, by chance; the formula counts one.
    most = 0.1 if size == 1 else 0.25
    held = min(run_ranks(size, measured, folder, options))
    how = Setting(
        shards=size, tokens=rows * LENGTH, recomputed=recomputed, width=4 if precision == "fp32" else 2, on_cpu=True
    )
    assert held / peak(shape_of(folder), how)["all"] == pytest.approx(1, abs=most)


def test_parameters_are_counted_without_weights(base_folder: Path) -> None:
    shape = shape_of(base_folder)
    model = load_whole(base_folder)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.tables == shape.head == model.lm_head.weight.numel()


def test_what_fits() -> None:
    keys, told = fits(LLAMA_1B, Machine("GPU", 1, 80e9))
    assert keys == {} and "full training with adamw takes about" in told
    assert fits(LLAMA_1B, Machine("GPU", 1, 26e9))[0] == {"train.checkpoint_activations": "full"}
    keys, _ = fits(LLAMA_1B, Machine("GPU", 1, 20e9))
    assert keys == {"train.optimizer": "adamw8bit", "train.checkpoint_activations": "full"}
    keys, told = fits(LLAMA_8B, Machine("GPU", 8, 80e9))
    assert "8 GPU(s)" in told and "warning" not in told
    _, told = fits(LLAMA_8B, Machine("GPU", 1, 24e9))
    assert "does not fit" in told and 'try train.method = "qlora"' in told


def test_host_memory_is_taken_where_nothing_else_fits_and_there_is_enough_of_it() -> None:
    keys, told = fits(LLAMA_8B, Machine("GPU", 1, 24e9, host=256e9))
    assert keys == {"train.offload": True, "train.checkpoint_activations": "full"}
    assert "128 of 256 GB of RAM" in told and "warning" not in told
    assert "train.offload" not in fits(LLAMA_8B, Machine("GPU", 1, 24e9, host=100e9))[0]
    assert "train.offload" not in fits(LLAMA_1B, Machine("GPU", 1, 20e9, host=256e9))[0]  # 8-bit moments are faster


def test_less_moves_and_less_is_kept_from_method_to_method() -> None:
    sizes = [peak(LLAMA_8B, Setting(method=method))["all"] for method in ("full", "lora", "qlora")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 16 * LLAMA_8B.parameters
    assert peak(LLAMA_8B, Setting(method="rows"))["all"] < sizes[1]


def test_the_start_of_training_warns_on_a_card_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (24 * 10**9, 24 * 10**9))
    recipe = Train(steps=1, sequences=4, eval_every=1, save_every=1)
    for kind, size, warns in (("cuda", 1, True), ("cuda", 64, False), ("cpu", 1, False)):
        world: Any = SimpleNamespace(device=torch.device(kind), size=size)
        told = too_large(LLAMA_8B, recipe, "full", 1024, world)
        assert bool(told) == warns, told
        assert not warns or "the card has 24 GB free" in told


def test_auto_recomputes_as_little_as_the_card_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Train(steps=1, sequences=4, eval_every=1, save_every=1, checkpoint_activations="auto")
    found = []
    for size in (24, 34, 80):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, size=size: (size * 10**9, size * 10**9))
        world: Any = SimpleNamespace(device=torch.device("cuda"), size=1)
        found.append(chosen_activations(LLAMA_1B, recipe, 2048, world))
    assert found == ["full", "selective", "none"]
    on_cpu: Any = SimpleNamespace(device=torch.device("cpu"), size=1)
    assert chosen_activations(LLAMA_8B, recipe, 2048, on_cpu) == "none"


def test_offloading_leaves_what_a_step_works_on_and_weights_in_4_bits() -> None:
    there, away = (peak(LLAMA_8B, Setting(shards=8, offload=offload)) for offload in (False, True))
    assert away["weights"] == away["gradients"] == away["moments"] == 0
    assert away["passing"] == there["passing"] and away["all"] < there["all"] / 2
    in_4_bits = peak(LLAMA_8B, Setting(method="qlora", offload=True))["weights"]
    assert in_4_bits == pytest.approx(LLAMA_8B.body * (0.5 + 4 / 64))


def test_weights_in_4_bits_are_whole_on_every_rank() -> None:
    alone, shared = (peak(LLAMA_8B, Setting(method="qlora", shards=shards))["weights"] for shards in (1, 64))
    assert shared > LLAMA_8B.body * 0.5 and alone - shared < 2.2 * LLAMA_8B.tables + 1e9
