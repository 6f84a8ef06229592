"""What each method of training moves, keeps and stores: on one rank, on two, and through a checkpoint."""

import dataclasses
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tables import split_tables
from prealign_cpt.model.world import World, local_shard, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train import adapters, checkpoint, stored
from prealign_cpt.train.optim import AdamW, make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import make_model, run_ranks
from tests.train.conftest import VOCAB, full, mixture, weights, write_models

FIRST_NEW, RANK = 41, 2
PIECES = [[m % 7, 3 * m % 41][: 1 + m % 2] for m in range(VOCAB - FIRST_NEW)]
METHODS = ("full", "rows", "lora", "qlora")
RECIPE = Train(
    steps=4, sequences=4, micro_batch=1, lr=1e-2, warmup=0.0, decay=0.0, precision="fp32", lora_rank=RANK,
    lora_alpha=4.0, eval_every=9, save_every=9,
)  # fmt: skip
CASES = [(method, base) for method in METHODS for base in ("tied", "untied")]


def kind(method: Any, **changed: Any) -> Train:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    return dataclasses.replace(RECIPE, method=method, **changed)


def start(
    folder: Path, base: str, recipe: Train, world: World, first_new: int | None = FIRST_NEW
) -> tuple[LanguageModelLoss, AdamW]:
    prepare = partial(adapters.prepare, recipe=recipe, first_new=first_new, seed=5)
    activations = recipe.checkpoint_activations
    module = sharded(folder / base, world, recipe.precision, activations, recipe.compile, prepare=prepare)
    return module, make_optimizer(module, recipe, first_new, PIECES if first_new is not None else None)


def go(module: LanguageModelLoss, optimizer: AdamW, folder: Path, recipe: Train, steps: range, world: World) -> Any:
    guard, text = SpikeGuard(), mixture(folder)
    return [train_step(module, optimizer, text, step, recipe, 0, world, guard).loss for step in steps]


def codes(module: LanguageModelLoss) -> dict[str, np.ndarray]:
    """The 4-bit weights."""
    found = adapters.adapted(module.model).items()
    return {name: full(linear.packed) for name, linear in found if linear.packed is not None}


def bytes_of_state(optimizer: AdamW) -> int:
    return sum(local_shard(t).nbytes for state in optimizer.state.values() for t in state.values())


def follow(folder: Path, method: str, base: str, world: World) -> dict[str, Any]:
    """Two steps, a checkpoint, two more; and these again from the checkpoint, in a model made anew."""
    recipe = kind(method)
    module, optimizer = start(folder, base, recipe, world)
    found: dict[str, Any] = {"before": weights(module), "codes": codes(module)}
    found["frozen"] = {name for name, p in module.named_parameters() if not p.requires_grad}
    found["losses"] = go(module, optimizer, folder, recipe, range(2), world)
    saves = folder / f"{method}-{base}-{world.size}"
    if world.rank == 0:
        saves.mkdir()
    world.any(False)  # a barrier
    path = checkpoint.write(saves, 2, checkpoint.snapshot(module, optimizer), {"inputs": {}}, world)
    found["losses"] += go(module, optimizer, folder, recipe, range(2, 4), world)
    found["after"] = weights(module)
    found["codes after"] = codes(module)
    found["state"] = int(world.sum(bytes_of_state(optimizer)))
    module, optimizer = start(folder, base, recipe, world)
    assert stored.load(path, module, optimizer) == 2
    found["resumed losses"] = go(module, optimizer, folder, recipe, range(2, 4), world)
    found["resumed"] = weights(module)
    return found


def work(rank: int, size: int, folder: Path) -> dict[Any, Any]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        return {case: follow(folder, *case, world) for case in CASES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[Any, Any]]:
    return run_ranks(2, work, folder)


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[Any, Any]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        return {case: follow(folder, *case, world) for case in CASES}


def nats(module: LanguageModelLoss, keep: bool = False) -> torch.Tensor:
    """Of each token of some random ones.

    Args:
        keep: the graph.
    """
    ids = torch.randint(1, VOCAB, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(keep):
        return module(ids, ids, torch.arange(20).expand(3, 20), each=True)


@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("method", ["rows", "lora"])
def test_at_the_start_the_function_is_the_base_s_bit_by_bit(folder: Path, method: str, base: str) -> None:
    model = load_whole(folder / base)
    expected = nats(LanguageModelLoss(model))
    adapters.prepare(model, kind(method), FIRST_NEW, seed=5)
    assert torch.equal(nats(LanguageModelLoss(model)), expected)
    assert len(adapters.adapted(model)) == (14 if method == "lora" else 0)
    for linear in adapters.adapted(model).values():
        assert linear.a.any() and not linear.b.any()


def test_qlora_computes_with_the_weights_that_4_bits_stand_for(folder: Path) -> None:
    """Normal numbers lose a tenth of their size to nf4 (2305.14314); function and gradients are those of the rest."""
    model, base = load_whole(folder / "tied"), load_whole(folder / "tied")
    adapters.prepare(model, kind("qlora"), FIRST_NEW, seed=5)
    adapters.quantize(model, model.get_parameter, torch.device("cpu"))
    for name, linear in adapters.adapted(model).items():
        weight, read = base.get_submodule(name).weight, linear.merged(torch.float32).weight
        assert 0.05 < (weight - read).norm() / weight.norm() < 0.15, name
        base.get_submodule(name).weight = read
    adapters.prepare(base, kind("lora"), FIRST_NEW, seed=5)
    losses = [nats(LanguageModelLoss(one), keep=True) for one in (model, base)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.sum().backward()
    for name, parameter in base.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_only_what_the_method_moves_has_moved(one: dict[Any, Any], case: tuple[str, str]) -> None:
    found, method = one[case], case[0]
    moved = {name for name, value in found["before"].items() if not np.array_equal(found["after"][name], value)}
    assert moved == found["before"].keys() - found["frozen"]
    if method == "full":
        assert not found["frozen"]
        return
    adapter = {name for name in moved if name.endswith((".a", ".b"))}
    assert moved - adapter == {"model.model.embed_tokens.new"} | (
        {"model.lm_head.new"} if case[1] == "untied" else set()
    )
    assert len(adapter) == (0 if method == "rows" else 28)
    assert len(found["before"]["model.model.embed_tokens.new"]) == VOCAB - FIRST_NEW
    assert len(found["codes"]) == (14 if method == "qlora" else 0)
    for name, value in found["codes"].items():
        assert value.dtype == np.uint8 and np.array_equal(found["codes after"][name], value)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_ranks_train_as_one_does(one: dict[Any, Any], two: list[dict[Any, Any]], case: tuple[str, str]) -> None:
    for found in (rank[case] for rank in two):
        for name, value in one[case]["codes"].items():
            assert np.array_equal(found["codes"][name], value), name
        for name, value in one[case]["before"].items():
            assert np.array_equal(found["before"][name], value), name
        assert found["losses"] == pytest.approx(one[case]["losses"], abs=2e-6)
        for name, value in one[case]["after"].items():
            # Adam divides by the gradient's own size: where that is rounding noise, so is the update, of up to lr.
            close = np.isclose(found["after"][name], value, rtol=0, atol=2e-4)
            assert close.mean() > 0.99, (name, np.abs(found["after"][name] - value).max())


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_resumed_run_is_the_undisturbed_one(
    one: dict[Any, Any], two: list[dict[Any, Any]], case: tuple[str, str]
) -> None:
    for found in (one[case], *(rank[case] for rank in two)):
        assert found["resumed losses"] == found["losses"][2:]
        for name, value in found["after"].items():
            assert np.array_equal(found["resumed"][name], value), name


def test_moments_exist_for_what_moves_alone(one: dict[Any, Any]) -> None:
    """Hidden size 32: q 32 x 32, k and v 16 x 32, o 32 x 32, gate and up 64 x 32, down 32 x 64; two blocks."""
    new, hidden = VOCAB - FIRST_NEW, 32
    composed = 2 * 4 * (3 * hidden + 1) * hidden
    rows = 2 * 4 * new * hidden
    widths = [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64)]
    adapter = 2 * 4 * 2 * sum(RANK * (out + into) for out, into in widths)
    assert one["rows", "tied"]["state"] == rows + composed
    assert one["rows", "untied"]["state"] == 2 * rows + composed
    for method in ("lora", "qlora"):
        assert one[method, "tied"]["state"] == rows + composed + adapter
    assert one["full", "tied"]["state"] == sum(8 * v.size for v in one["full", "tied"]["before"].values()) + composed


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_checkpoint_holds_what_moves_alone(folder: Path, one: dict[Any, Any], method: str) -> None:
    path = next((folder / f"{method}-untied-1").glob("step-*"))
    held = {name for name in stored.read_metadata(path).state_dict_metadata if name.startswith("model.")}
    assert held == {
        f"model.{name}" for name in one[method, "untied"]["before"].keys() - one[method, "untied"]["frozen"]
    }


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_rows_alone_move_as_in_the_first_phase_of_full_training(folder: Path, one: dict[Any, Any], base: str) -> None:
    recipe = kind("full", rows_steps=4)
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        module, optimizer = start(folder, base, recipe, world)
        losses = go(module, optimizer, folder, recipe, range(4), world)
        expected = weights(module)
    assert one["rows", base]["losses"] == pytest.approx(losses, abs=1e-6)
    tables = {"model.model.embed_tokens": "model.model.embed_tokens.new"} | (
        {"model.lm_head": "model.lm_head.new"} if base == "untied" else {}
    )
    for whole, new in tables.items():
        found = one["rows", base]["after"][new]
        np.testing.assert_allclose(found, expected[f"{whole}.weight"][FIRST_NEW:], atol=2e-5, err_msg=whole)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_train_without_new_tokens(folder: Path, method: str) -> None:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        recipe = kind(method)
        module, optimizer = start(folder, "untied", recipe, world, None)
        before = weights(module)
        go(module, optimizer, folder, recipe, range(2), world)
        after = weights(module)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith((".a", ".b"))}


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_recomputed_activations_change_no_bit(folder: Path, method: str) -> None:
    found = []
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        for mode in ("none", "selective", "full"):
            recipe = kind(method, checkpoint_activations=mode)
            module, optimizer = start(folder, "tied", recipe, world)
            go(module, optimizer, folder, recipe, range(2), world)
            found.append(weights(module))
    for other in found[1:]:
        assert all(np.array_equal(other[name], value) for name, value in found[0].items())


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapted_linear_is_no_seam_in_a_compiled_block(method: str) -> None:
    linear = adapters.AdaptedLinear(nn.Linear(64, 48), kind(method), torch.Generator().manual_seed(0))
    if method == "qlora":
        assert linear.weight is not None
        linear.quantize(linear.weight)
        read = import_module("bitsandbytes").functional.dequantize_4bit(linear.packed, linear.state)
        assert read.shape == linear.state.shape, "generated code insists on the shape that the compiler was told"
    nn.init.normal_(linear.b)
    found = []
    for call in (linear, torch.compile(linear, backend="aot_eager", fullgraph=True)):
        x = torch.linspace(-1, 1, 2 * 5 * 64).view(2, 5, 64).requires_grad_()
        y = call(x)
        found.append((y, *torch.autograd.grad(y.sin().sum(), (x, linear.a, linear.b))))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["rows", "lora", "qlora"])
def test_bf16_keeps_frozen_weights_in_bf16_and_masters_of_the_rest(folder: Path, method: str) -> None:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        recipe = kind(method, precision="bf16", rows_steps=1)
        module, optimizer = start(folder, "tied", recipe, world)
        losses = go(module, optimizer, folder, recipe, range(2), world)
    assert all(p.dtype == (torch.float32 if p.requires_grad else torch.bfloat16) for p in module.parameters())
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("bias", [False, True])
def test_the_adapted_linear_is_weight_and_product_for_autograd_too(bias: bool) -> None:
    linear = nn.Linear(6, 5, bias=bias).requires_grad_(False)
    adapted = adapters.AdaptedLinear(linear, kind("lora"), torch.Generator().manual_seed(1))
    nn.init.normal_(adapted.b)
    inputs = [torch.randn(2, 3, 6, requires_grad=True), adapted.a, adapted.b]
    slope = torch.randn(2, 3, 5)
    x, a, b = inputs
    expected = linear(x) + RECIPE.lora_alpha / RANK * (x @ a.T @ b.T)
    torch.testing.assert_close(adapted(x), expected)
    for found, right in zip(*(torch.autograd.grad(y, inputs, slope) for y in (adapted(x), expected)), strict=True):
        torch.testing.assert_close(found, right)


def test_a_merged_model_computes_what_the_adapters_did(folder: Path) -> None:
    model = load_whole(folder / "untied")
    adapters.prepare(model, kind("lora"), None, seed=5)
    for linear in adapters.adapted(model).values():
        nn.init.normal_(linear.b, std=0.1, generator=torch.Generator().manual_seed(3))
    before, base = nats(LanguageModelLoss(model)), nats(LanguageModelLoss(load_whole(folder / "untied")))
    for name, linear in adapters.adapted(model).items():
        model.set_submodule(name, linear.merged(torch.float32))
    after = nats(LanguageModelLoss(model))
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)
    assert (after - base).abs().mean() > 0.1


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_bf16_merges_into_the_weights_that_were_computed_with(folder: Path, method: str) -> None:
    """Also an update that is smaller than the distance of two bf16 numbers, which a sum behind the products shows."""
    model = load_whole(folder / "tied")
    adapters.prepare(model, kind(method, precision="bf16"), None, seed=5)
    adapters.quantize(model, model.get_parameter, torch.device("cpu"))
    for name, linear in adapters.adapted(model).items():
        nn.init.normal_(linear.b, std=1e-3, generator=torch.Generator().manual_seed(3))
        merged, bare = linear.merged(torch.bfloat16), linear.merged(torch.bfloat16).weight.detach()
        linear.a.data, linear.b.data = linear.a.to(torch.bfloat16), linear.b.to(torch.bfloat16)  # as FSDP gathers them
        x = torch.randn(7, linear.a.shape[1], generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
        assert torch.equal(linear(x), merged(x)), name
        linear.b.data.zero_()
        share = (linear.merged(torch.bfloat16).weight != bare).float().mean()
        assert 0.05 < share < 0.95, "the update is neither nothing nor all that is seen"


def test_a_split_embedding_keeps_what_its_class_does() -> None:
    """Gemma multiplies rows by a factor, and a padding token is no row of the new part."""

    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 5.0

    model = make_model(VOCAB)
    embedding = Scaled(VOCAB, 32, padding_idx=40)
    embedding.weight = model.lm_head.weight
    model.set_input_embeddings(embedding)
    ids = torch.arange(VOCAB)[None]
    expected = embedding(ids).detach()
    split_tables(model, 60)
    assert torch.equal(model.get_input_embeddings()(ids), expected)


def test_adapters_begin_alike_by_seed(folder: Path) -> None:
    starts = []
    for seed in (5, 5, 6):
        model = make_model(VOCAB)
        adapters.prepare(model, kind("lora"), None, seed=seed)
        starts.append(adapters.adapted(model)["model.layers.1.mlp.up_proj"].a.detach())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_rows_alone_need_new_rows() -> None:
    with pytest.raises(RecipeError, match=r'^train\.method: "rows".*vocab\.size'):
        adapters.prepare(make_model(VOCAB), kind("rows"), None, seed=0)


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("No module named 'bitsandbytes'")

    monkeypatch.setattr(adapters, "import_module", missing)
    recipe = dataclasses.replace(RECIPE, method="qlora")
    with pytest.raises(RecipeError, match=r'train\.method: "qlora" needs bitsandbytes.*prealign-cpt\[bnb\]'):
        adapters.prepare(make_model(VOCAB), recipe, FIRST_NEW, seed=0)
