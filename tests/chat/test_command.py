"""`prealign chat` on a tiny run: both ways, stopped and gone on, done once, and refused."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from prealign_cpt.chat import measure
from prealign_cpt.chat.render import Renderer
from prealign_cpt.chat.rows import Rows
from prealign_cpt.cli import main
from prealign_cpt.run import signals
from prealign_cpt.run.manifest import verify
from prealign_cpt.serving.folder import check_servable, model_name
from tests.chat.conftest import CHATML, tokenizer_of
from tests.chat.test_residual import _moved
from tests.conftest import ENGLISH, START, TARGET, make_model, recipe_file

FLAGS = [
    "--chat.instructions", '["en.jsonl"]', "--chat.instructions_target", '["de.jsonl"]', "--chat.steps", "4",
    "--chat.sequences", "2", "--chat.sequence_length", "160", "--chat.lr", "1e-3",
    "--text.parallel_english", "lines.en", "--text.parallel_target", "lines.de",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has a chat template, and beside it an instruct model made of it."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tokenizer_of("chatml")
    for name in ("base", "instruct"):
        model = make_model(len(tokenizer))
        (model if name == "base" else _moved(model, 2)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "base"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run up to its export, and instruction files beside its recipe.toml; not to be changed."""
    make: Callable[..., Path] = unwrap(recipe_file)
    recipe = make(tmp_path_factory.mktemp("run"), base)
    assert main(["export", str(recipe), "--align.steps", "0", "--train.steps", "2"]) == 0
    run = recipe.parent / "runs" / "tiny"
    lines = {"en": [text.split("\n")[0] for text in ENGLISH], "de": [text.split("\n")[0] for text in TARGET]}
    for code, texts in lines.items():
        asked = [{"instruction": f"{text} {n}", "output": texts[n % 5]} for n in range(4) for text in texts]
        (run / f"{code}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
        (run / f"lines.{code}").write_text("".join(f"{text}\n" for text in texts))
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measure, "MOST_TOKENS", 6)
    shutil.copytree(finished, tmp_path / "moved")
    return tmp_path / "moved"


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def _equal(one: Path, other: Path) -> bool:
    left, right = _state(one), _state(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_instructions_are_learned_and_the_folder_is_whole(run: Path, method: str, capsys: Any) -> None:
    assert main(["chat", str(run), *FLAGS, "--chat.method", method]) == 0
    folder = run / "chat"
    verify(folder)
    assert check_servable(folder) and model_name(folder) == "moved-chat"
    assert not list(run.glob(".tasks-chat-*"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    losses = [row["loss"] for row in rows[1:]]
    assert sum(losses[2:]) < sum(losses[:2])
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|im_end|>")
    assert end in GenerationConfig.from_pretrained(folder).eos_token_id
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>" != START
    told = json.loads((folder / "chat.json").read_text())
    assert list(told["models"]) == ["base", "export", "chat"] and len(told["answers"]["chat"]) == 5
    assert told["models"]["base"]["english_same"] == 1.0
    assert told["models"]["chat"]["asked"] == {"english": 2, "target": 2, "english>target": 2, "target>english": 2}
    assert {"language/english>target", "target_bpb", "english_answers_bpb"} <= told["models"]["export"].keys()
    assert "4 steps of 2 rows" in (folder / "README.md").read_text()
    moved = [name for name, value in _state(folder).items() if not torch.equal(value, _state(run / "export")[name])]
    assert any("q_proj" in name for name in moved) and any("norm" in name for name in moved) == (method == "full")
    printed = capsys.readouterr().out
    assert "answers in the language asked: English, asked for German" in printed
    assert main(["chat", str(run), *FLAGS, "--chat.method", method]) == 0
    assert "chat: done before, kept" in capsys.readouterr().out
    assert main(["chat", str(run), *FLAGS, "--chat.method", method, "--chat.cross", "0.25"]) == 78
    assert "chat.cross: 0.5 -> 0.25" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    run: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    straight = shutil.copytree(finished, tmp_path / "straight")
    assert main(["chat", str(straight), *FLAGS]) == 0
    read = Rows.documents

    def stopping(self: Rows, numbers: list[int], start_id: int) -> Any:
        if numbers[0] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, numbers, start_id)

    with monkeypatch.context() as patched:
        patched.setattr(Rows, "documents", stopping)
        assert main(["chat", str(run), *FLAGS]) == 75
    assert "saved at step 3" in capsys.readouterr().err and not (run / "chat").exists()
    signals._requested = None  # a new process has had no signal
    seen: list[int] = []
    monkeypatch.setattr(
        Rows, "documents", lambda self, numbers, start: seen.extend(numbers) or read(self, numbers, start)
    )
    assert main(["chat", str(run), *FLAGS]) == 0
    assert seen == [6, 7]
    assert _equal(run / "chat", straight / "chat")


@pytest.mark.slow
def test_a_chat_vector_is_added(run: Path, base: Path, capsys: Any) -> None:
    instruct = base.parent / "instruct"
    assert main(["chat", str(run), "--instruct", str(instruct), "--scale", "0"]) == 0
    folder = run / "chat"
    assert _equal(folder, run / "export")
    assert main(["chat", str(run), "--instruct", str(instruct)]) == 78
    assert "scale: 0.0 -> 1.0" in capsys.readouterr().err
    assert main(["chat", str(run), "--instruct", str(instruct), "--redo"]) == 0
    assert check_servable(folder) and not _equal(folder, run / "export")
    parts = {name: _state(path) for name, path in (("base", base), ("tuned", instruct), ("export", run / "export"))}
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = parts["export"][name] + parts["tuned"][name] - parts["base"][name]
    assert torch.allclose(_state(folder)[name], expected, atol=1e-6)
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(instruct)
    assert tokenizer.chat_template == theirs.chat_template and tokenizer.eos_token == "<|im_end|>"
    assert Renderer(tokenizer).prompt((("user", "1"),)) == Renderer(theirs).prompt((("user", "1"),))
    told = json.loads((folder / "chat.json").read_text())
    assert told["template_ids_unchanged"] and list(told["models"]) == ["instruct", "export", "chat"]
    assert "new tokens' rows are as they were" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_what_cannot_be_done_is_refused(run: Path, base: Path, tmp_path: Path, capsys: Any) -> None:
    def refused(*flags: str) -> str:
        assert main(["chat", *flags]) in (65, 66, 78)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not (run / "chat").exists()
        return str(error)

    assert "nothing to learn from" in refused(str(run))
    assert "no run with an export" in refused(str(tmp_path))
    assert "gone.jsonl: no such file" in refused(str(run), "--chat.instructions", '["gone.jsonl"]')
    (run / "bad.jsonl").write_text('{"instruction": "a"}\n')
    assert "bad.jsonl:1: neither" in refused(str(run), "--chat.instructions", '["bad.jsonl"]')
    other = tmp_path / "other"
    make_model(409, hidden=64).save_pretrained(other)
    tokenizer_of("chatml").save_pretrained(other)
    capsys.readouterr()
    assert "hidden_size 32 and 64" in refused(str(run), "--instruct", str(other))
    (run / "broken.jinja").write_text(CHATML.replace("endfor", "endfo"))
    assert "cannot render" in refused(str(run), *FLAGS, "--chat.template", "broken.jinja")
