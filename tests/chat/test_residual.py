"""The chat vector on made-up models, where the sum is known number by number."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from prealign_cpt.chat.residual import Residual, check_tokens
from prealign_cpt.run.errors import DataError
from tests.chat.conftest import tokenizer_of
from tests.conftest import make_model

OLD, ALL = 60, 67


def _moved(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def _save(folder: Path, model: LlamaForCausalLM) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture(params=["tied", "untied", "untied export"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path]:
    """export [ALL rows], base and instruct [OLD rows]."""
    tied = request.param != "untied"
    export = _moved(make_model(ALL, tied=request.param == "tied"), 1)
    return (
        _save(tmp_path / "export", export if request.param == "untied" else export.to(torch.bfloat16)),
        _save(tmp_path / "base", make_model(OLD, tied=tied)),
        _save(tmp_path / "instruct", _moved(make_model(OLD, tied=tied), 2)),
    )


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict())


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_the_sum_is_exact(models: tuple[Path, Path, Path], scale: float) -> None:
    export, base, instruct = map(_state, models)
    moved = 0
    with Residual(*models, scale, OLD) as total:
        for name, before in export.items():
            if name not in total._models[0].places:
                continue  # a tied head, which is the embedding
            difference = scale * (instruct[name].double() - base[name].double())
            expected = before.double()
            expected[: len(difference)] += difference
            found = total.read(name)
            assert found.dtype == torch.float32 and found.shape == before.shape
            assert torch.allclose(found.double(), expected, atol=1e-6, rtol=0), name
            if "embed" in name or "lm_head" in name:
                assert torch.equal(found[OLD:], before[OLD:].float()), "a new row has moved"
            assert torch.equal(total.read(name), found), "reading has changed what is read"
            moved += not torch.equal(found, before.float())
    assert moved == len(set(export) - {"lm_head.weight"}) + ("lm_head.weight" in total._models[0].places)


def test_nothing_is_added_at_scale_0_or_where_nothing_was_tuned(models: tuple[Path, Path, Path]) -> None:
    export, base, _ = models
    for folders, scale in ((models, 0.0), ((export, base, base), 1.0)):
        with Residual(*folders, scale, OLD) as total:
            for name, before in _state(export).items():
                if name in total._models[0].places:
                    assert torch.equal(total.read(name), before.float())


def test_adding_and_taking_away_gives_what_was_there(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    export, base, instruct = models
    whole = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    with Residual(export, base, instruct, 1.0, OLD) as total, torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.copy_(total.read(name))
    whole.save_pretrained(tmp_path / "sum")
    with Residual(tmp_path / "sum", base, instruct, -1.0, OLD) as total:
        for name, before in _state(export).items():
            if name in total._models[0].places:
                assert torch.allclose(total.read(name), before.float(), atol=1e-6)


def test_rows_that_pad_a_table_take_no_part(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Bases often have more rows than tokens; new tokens take their places."""
    export, base, instruct = models
    for seed, folder in enumerate((base, instruct)):
        torch.manual_seed(seed)
        padded = AutoModelForCausalLM.from_pretrained(folder)
        padded.resize_token_embeddings(64, mean_resizing=False)
        padded.save_pretrained(tmp_path / f"padded {folder.name}")
    for folders in ((base, "padded instruct"), ("padded base", instruct), ("padded base", "padded instruct")):
        paths = [folder if isinstance(folder, Path) else tmp_path / folder for folder in folders]
        with Residual(export, base, instruct, 1.0, OLD) as one, Residual(export, *paths, 1.0, OLD) as other:
            assert all(torch.equal(one.read(name), other.read(name)) for name in one._models[0].places)


def test_another_model_is_refused_in_one_message(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    export, base, _ = models
    for name, model, words in (
        ("wide", make_model(OLD, hidden=64), ["hidden_size 32 and 64"]),
        ("deep", make_model(OLD, layers=3), ["num_hidden_layers 2 and 3"]),
        ("turned", make_model(OLD), ["rope_parameters", "1.0"]),
    ):
        if name == "turned":
            model.config.rope_parameters = {"rope_type": "default", "rope_theta": 1.0}
        with pytest.raises(DataError) as caught:
            Residual(export, base, _save(tmp_path / name, model), 1.0, OLD)
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in [*words, name, "--instruct", "exactly this base"])


def test_a_token_with_another_id_is_refused() -> None:
    grown, instruct = tokenizer_of("chatml"), tokenizer_of("chatml")
    check_tokens(grown, instruct)
    grown.add_tokens(["Haus"])
    check_tokens(grown, instruct)
    instruct.add_tokens(["<tool>"])
    with pytest.raises(DataError, match=r"'<tool>' \(id \d+ of \d+\) is no token in the grown tokenizer"):
        check_tokens(grown, instruct)
    grown.add_tokens(["<tool>"])
    with pytest.raises(DataError, match=r"'<tool>' \(id \d+ of \d+\) is id \d+ in"):
        check_tokens(grown, instruct)
