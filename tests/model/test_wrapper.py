"""The language model inside a multimodal base: the same function of text in an ordinary folder, or one message."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model import wrapper
from prealign_cpt.model.base import from_wrapper, resolve_base
from prealign_cpt.model.load import check_isolation, check_structure, load_whole
from prealign_cpt.pipeline import Command, run_parts
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import DataError, PrealignError, RecipeError, StorageError
from tests.conftest import START
from tests.model.wrappers import OLD, ROWS, configure, make_wrapper, rename, rewrite


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "base"


@pytest.fixture
def source(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A small Gemma 3 with eyes."""
    make_wrapper(tmp_path / "gemma", tokenizer)
    return tmp_path / "gemma"


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """For 2 texts of 40 tokens, longer than a sliding window of 8."""
    ids = torch.randint(1, ROWS, (2, 40), generator=torch.Generator().manual_seed(0))
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()] if cache.is_dir() else []


class Kind(NamedTuple):
    name: str
    of: str
    text_type: str = ""
    text: dict[str, Any] | None = None
    tied: bool | None = None


KINDS = [
    Kind("gemma3", "Gemma3ForCausalLM", text={"num_hidden_layers": 6, "sliding_window": 8}),
    Kind("mistral3", "MistralForCausalLM", tied=False),
    Kind("mistral3", "MistralForCausalLM", text={"sliding_window": 8}),
    Kind("mistral3", "Ministral3ForCausalLM", "ministral3"),
    Kind("llava", "LlamaForCausalLM"),
    Kind("llava_next", "MistralForCausalLM", "mistral"),
    Kind("llava_onevision", "Qwen2ForCausalLM"),
    Kind("internvl", "Qwen3ForCausalLM", "qwen3"),
    Kind("idefics3", "LlamaForCausalLM"),
    Kind("smolvlm", "LlamaForCausalLM"),
    Kind("lighton_ocr", "Qwen3ForCausalLM"),
    Kind("exaone4_5", "Exaone4ForCausalLM"),
    Kind("video_llama_3", "Qwen2ForCausalLM"),
    Kind("deepseek_vl", "LlamaForCausalLM"),
    Kind("voxtral", "LlamaForCausalLM"),
    Kind("qwen2_audio", "Qwen2ForCausalLM"),
    Kind("gemma4_unified", "Gemma4UnifiedForCausalLM"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-{kind.of}")
def test_given_text_it_computes_what_the_wrapper_does(
    kind: Kind, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    source = tmp_path / "wrapper"
    options = {} if kind.tied is None else {"tie_word_embeddings": kind.tied}
    whole = type(make_wrapper(source, tokenizer, kind.name, kind.text_type, kind.text, **options))
    expected = logits(whole.from_pretrained(source, attn_implementation="sdpa"))
    folder = resolve_base(str(source))
    model = load_whole(folder)
    assert type(model).__name__ == kind.of and model.config.architectures == [kind.of]
    assert torch.equal(logits(model), expected) and expected.std() > 0.01
    check_structure(folder)
    check_isolation(model)
    assert not {"vision_config", "text_config", "audio_config"} & set(json.loads((folder / "config.json").read_text()))
    told = from_wrapper(folder)
    assert told.startswith(f"the language model of a {whole.__name__}, as {kind.of}; left out: ")
    # The same weights in the other layout are the same model.
    rewrite(source, rename)
    again = resolve_base(str(source))
    assert torch.equal(logits(load_whole(again)), expected)


def test_what_only_the_wrapper_says_comes_along(source: Path) -> None:
    """As Gemma 3 4B is published: a sparse text_config in the words of transformers 4, ends at the top."""

    def publish(config: dict[str, Any]) -> None:
        del config["tie_word_embeddings"]
        config["eos_token_id"] = [1, 106]
        text = config["text_config"]
        keys = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        keys += ("num_key_value_heads", "head_dim", "vocab_size")
        config["text_config"] = {key: text[key] for key in keys} | {
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 5000.0,
            "rope_local_base_freq": 700.0,
            "sliding_window": 8,
            "sliding_window_pattern": 2,
        }

    configure(source, publish)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 106], "top_k": 64}))
    (source / "LICENSE").write_text("mine")
    (source / "processor_config.json").write_text("{}")
    (source / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    folder = resolve_base(str(source))
    model = load_whole(folder)
    assert model.config.eos_token_id == [1, 106] and model.config.tie_word_embeddings
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    assert model.config.rope_parameters == {
        "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
    }
    whole = AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa")
    assert type(whole).__name__ == "Gemma3ForConditionalGeneration"
    assert torch.equal(logits(model), logits(whole))
    assert json.loads((folder / "generation_config.json").read_text())["top_k"] == 64
    assert (folder / "LICENSE").read_text() == "mine" and not (folder / "processor_config.json").exists()
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages }}"


def test_each_tensor_keeps_its_type(source: Path) -> None:
    def narrow(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if "norm" not in name:
                tensors[name] = tensors[name].bfloat16()

    rewrite(source, narrow)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, resolve_base(str(source))))
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16, torch.float32}
    for name, tensor in after.items():
        old = before[OLD + name.removeprefix("model.")]
        assert tensor.dtype == old.dtype and torch.equal(tensor, old)


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_in_the_file_is_believed_more_than_the_configuration(equal: bool, source: Path) -> None:
    """Mistral Small 3.1 has a head of its own and does not say so."""

    def add_head(tensors: dict[str, Tensor]) -> None:
        table = tensors[OLD + "embed_tokens.weight"]
        tensors["language_model.lm_head.weight"] = table.clone() if equal else table.flip(0)

    rewrite(source, add_head)
    folder = resolve_base(str(source))
    model = load_whole(folder)
    assert model.config.tie_word_embeddings == equal
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) != equal
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa")))


@pytest.mark.parametrize("moment", ["wrapper.write_weights", "wrapper.shutil.copyfile", "base.check_base"])
def test_an_interrupted_conversion_leaves_nothing(
    moment: str, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"prealign_cpt.model.{moment}", stop)
        with pytest.raises(KeyboardInterrupt):
            resolve_base(str(source))
    assert folders(cache) == []
    load_whole(resolve_base(str(source)))


def test_only_a_changed_source_is_converted_anew(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    convert = wrapper.convert
    monkeypatch.setattr(wrapper, "convert", lambda *given: made.append(given[0]) or convert(*given))
    folder = resolve_base(str(source))
    manifest = (folder / "MANIFEST.json").read_bytes()
    os.utime(source / "model.safetensors", (0, 0))  # the same bytes
    assert resolve_base(str(source)) == folder and len(made) == 1
    rewrite(source, lambda tensors: tensors[OLD + "norm.weight"].add_(1))
    assert resolve_base(str(source)) == folder and len(made) == 2
    assert torch.equal(
        load_file(folder / "model.safetensors")["model.norm.weight"],
        load_file(source / "model.safetensors")[OLD + "norm.weight"],
    )
    rewrite(source, lambda tensors: tensors[OLD + "norm.weight"].sub_(1))
    resolve_base(str(source))
    assert (folder / "MANIFEST.json").read_bytes() == manifest, "the same source gives the same folder, anywhere"
    monkeypatch.setattr(wrapper, "CONVERSION", wrapper.CONVERSION + 1)
    resolve_base(str(source))
    assert len(made) == 4 and folders(cache) == [folder.name]
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="damaged"):
        resolve_base(str(source))


def _remove(tensors: dict[str, Tensor]) -> None:
    del tensors[OLD + "norm.weight"]


def _add(tensors: dict[str, Tensor]) -> None:
    tensors[OLD + "layers.2.mlp.up_proj.weight"] = torch.zeros(2)


def _reshape(tensors: dict[str, Tensor]) -> None:
    tensors[OLD + "norm.weight"] = torch.zeros(31)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove, r"not those of Gemma3ForCausalLM: 1 missing \(model.norm.weight\); download"),
        (_add, r"1 unknown to it \(model.layers.2.mlp.up_proj.weight\); download"),
        (_reshape, r"1 of another shape \(model.norm.weight\); download"),
    ],
)
def test_other_tensors_than_those_of_the_class(
    change: Callable[[dict[str, Tensor]], None], message: str, source: Path, cache: Path
) -> None:
    rewrite(source, change)
    with pytest.raises(DataError, match=message):
        resolve_base(str(source))
    assert folders(cache) == []


@pytest.mark.parametrize(
    ("model_type", "text", "message"),
    [
        ("qwen2_5_vl", {}, "Qwen2_5_VLForConditionalGeneration is a multimodal model, .* alone .qwen2_5_vl_text.;"),
        ("aria", {}, "AriaTextForCausalLM is a mixture of experts"),
        ("qwen3_5", {}, "Qwen3_5ForCausalLM carries a state"),
        ("lfm2_vl", {"layer_types": ["conv", "full_attention"]}, "Lfm2ForCausalLM carries a state"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "Gemma3ForCausalLM changes its logits"),
        (
            "gemma4",
            {"vocab_size_per_layer_input": ROWS},
            "Gemma4ForCausalLM has a second table with a row for each token .model.embed_tokens_per_layer",
        ),
        ("paligemma", {}, "GemmaForCausalLM lets a token attend to those after it"),
    ],
)
def test_what_is_refused_without_eyes_is_refused_with_them(
    model_type: str, text: dict[str, Any], message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, cache: Path
) -> None:
    make_wrapper(tmp_path / "wrapper", tokenizer, model_type, text=text)
    with pytest.raises(RecipeError, match=f"base.model: .*{message}.*; choose a dense .*wrapper|{message}"):
        resolve_base(str(tmp_path / "wrapper"))
    assert folders(cache) == []


def _pickle(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def _code(source: Path) -> None:
    configure(source, lambda config: config.update(auto_map={"AutoConfig": "x.X"}))


def _quantise(source: Path) -> None:
    configure(source, lambda config: config["text_config"].update(quantization_config={}))


def _forget(source: Path) -> None:
    configure(source, lambda config: config.update(model_type="of_tomorrow"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_pickle, "weights only as pickle"),
        (_code, "'auto_map' names code"),
        (_quantise, "quantised weights cannot be trained"),
        (_forget, "transformers does not know it"),
    ],
)
def test_refused_before_anything_is_read(
    change: Callable[[Path], None], message: str, source: Path, cache: Path
) -> None:
    change(source)
    with pytest.raises(PrealignError, match=message):
        resolve_base(str(source))
    assert folders(cache) == []


def test_the_room_is_looked_at_first(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"base: 0\.0 GB free, 0\.0 needed"):
        resolve_base(str(source))
    assert folders(cache) == []


def test_several_files_and_a_name_on_the_hub(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    whole = AutoModelForCausalLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    whole.save_pretrained(source, max_shard_size="60KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(source))
    folder = resolve_base("org/name")
    assert folder.name.startswith("org--name-")
    assert torch.equal(logits(load_whole(folder)), logits(AutoModelForCausalLM.from_pretrained(source)))


def test_a_wrapper_is_evaluated_as_its_language_model(source: Path) -> None:
    subject = Subject(source, device="cpu")
    assert subject.folder == resolve_base(str(source)) and subject.name == "gemma"
    assert type(subject.model).__name__ == "Gemma3ForCausalLM"


def test_an_ordinary_base_is_from_no_wrapper(base_folder: Path) -> None:
    assert from_wrapper(resolve_base(str(base_folder))) == ""


@pytest.mark.slow
def test_a_run_from_start_to_export(
    recipe_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a base whose last token, that for images, has no row in the language model."""
    seeing = AutoTokenizer.from_pretrained(_saved(tokenizer, tmp_path / "tokenizer"))
    seeing.add_special_tokens({"additional_special_tokens": ["<image>"]})
    rows = len(seeing) - 1
    make_wrapper(tmp_path / "base", seeing, text={"vocab_size": rows}, image_token_index=rows)
    flags = ["--base.model", str(tmp_path / "base"), "--train.steps", "2", "--train.eval_every", "2"]
    recipe = load_recipe(recipe_file, [*flags, "--train.save_every", "2"])
    run_parts(recipe, Command(path=recipe_file), "export")
    said = (
        "the language model of a Gemma3ForConditionalGeneration, as Gemma3ForCausalLM; left out: multi_modal_projector"
    )
    assert f"base.model: {said}, vision_tower" in capsys.readouterr().out
    assert f"- Of the base: {said}" in (recipe.run / "export" / "README.md").read_text()
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (seeing.name_or_path, recipe.run / "export"))
    model = AutoModelForCausalLM.from_pretrained(recipe.run / "export")
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert len(new) > rows + 1 and model.config.vocab_size == len(new) and new.convert_tokens_to_ids("<image>") == rows
    aligned = load_file(recipe.run / "align" / "model.safetensors")["model.embed_tokens.weight"]
    taken = load_file(resolve_base(recipe.base.model) / "model.safetensors")
    assert torch.equal(aligned[:rows], taken["model.embed_tokens.weight"])
    assert old.encode("house") == new.encode("house", add_special_tokens=False) and new.bos_token == START


def _saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder
