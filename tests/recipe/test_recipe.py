"""Reading a recipe: what is refused and how it is named, flags, paths, and the way back to TOML."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.recipe.file import as_dict, as_toml, keys, load_recipe, toml
from prealign_cpt.recipe.schema import AUTO
from prealign_cpt.run.errors import MissingInputError, RecipeError

WHOLE = """
name = "tiny"
language = "German"
[base]
model = "base"
start_token = "<s>"
[text]
target = ["de.txt"]
english = ["/data/en.txt", "cache:en.txt"]
valid_target = "vd.txt"
valid_english = "ve.txt"
test_target = "td.txt"
test_english = "te.txt"
[lexicon]
path = "../lexicon.tsv"
[vocab]
size = 10
[align]
steps = 3
[data]
sequence_length = 32
[train]
steps = 6
sequences = 4
eval_every = 3
save_every = 2
"""

KEYS = """
align.anchor_tokens align.calibrate align.distill align.distill_to
align.distill_tokens align.init align.lexicon_weight align.lr align.max_english_increase align.objective
align.rows align.steps align.target_tokens align.trains align.untie align.weight align.words base.end_token base.model
base.start_token
chat.cross chat.instructions chat.instructions_target chat.lr chat.method chat.sequence_length chat.sequences chat.steps
chat.template chat.translations
codeswitch.curriculum
codeswitch.labels codeswitch.ratio codeswitch.soft_weight data.english_share data.mixed_tokenization
data.sequence_length device evaluate.batch_tokens evaluate.before_training evaluate.clka evaluate.max_bytes
evaluate.mixed_prompts
evaluate.transfer_test evaluate.transfer_train evaluate.window_bytes language lexicon.format lexicon.heldout
lexicon.max_translations lexicon.path lexicon.swapped
name out seed serve.max_model_len serve.prompts_english serve.prompts_target
text.column text.document text.english text.general_english text.general_target text.parallel_english
text.parallel_target text.source text.target
text.test_english text.test_target text.valid_english text.valid_target train.checkpoint_activations train.clip
train.compile train.composition_lr train.decay train.embeddings_lr train.eval_every train.keep train.log
train.lora_alpha train.lora_rank train.lr
train.method train.micro_batch train.offload train.optimizer
train.precision train.replicas train.rows_lr train.rows_steps train.save_at train.save_every train.schedule
train.sequences
train.steps train.warmup train.weight_decay vocab.kind vocab.pretokenizer vocab.size vocab.tokenizer
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(WHOLE, encoding="utf-8")
    return path


def refused(path: Path, old: str, new: str, *words: str) -> None:
    """The recipe with one replacement must be refused in one line that holds all the words."""
    assert old in WHOLE
    path.write_text(WHOLE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_new_flag_is_a_decision():
    assert sorted(keys()) == KEYS.split()


def test_every_section_is_read(file: Path):
    recipe = load_recipe(file)
    assert (recipe.name, recipe.seed, recipe.text.target) == ("tiny", 0, ("de.txt",))
    assert recipe.train.lr == 2e-4 and recipe.codeswitch.labels == "input_only"
    assert recipe.run == Path("runs/tiny")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 3", "stepz = 3", ["align.stepz", "unknown key", "did you mean steps?"]),
        (
            "sequences = 4",
            "sequences = 4\nsequence_length = 8",
            ["train.sequence_length", "mean data.sequence_length or chat.sequence_length?"],
        ),
        ("steps = 3", "qqqq = 3", ["align.qqqq", "known keys", "objective"]),
        ("[vocab]", "[vocabulary]", ["vocabulary", "unknown key", "did you mean vocab?"]),
        ("steps = 3", 'steps = "3"', ["align.steps", "a whole number", "'3'", "str"]),
        ("steps = 3", "steps = 3.0", ["align.steps", "a whole number", "3.0"]),
        ("steps = 3", "steps = true", ["align.steps", "a whole number", "bool"]),
        ("steps = 3", "steps = 3\nlr = true", ["align.lr", "a number", "bool"]),
        ("steps = 3", "steps = 3\nlr = nan", ["align.lr", "nan"]),
        ("sequences = 4", "sequences = 4\ncompile = 1", ["train.compile", "true or false"]),
        ("sequences = 4", "sequences = 4\ncheckpoint_activations = true", ["checkpoint_activations", "'selective'"]),
        ("size = 10", "size = -1", ["vocab.size", "-1", "at least 0"]),
        ("size = 10", 'size = "many"', ["vocab.size", 'a whole number or "auto"', "'many'", "str"]),
        ("size = 10", "size = 10.0", ["vocab.size", 'a whole number or "auto"', "10.0"]),
        ("size = 10", 'size = "auto"', ["vocab.size: left open", "`prealign run", "recipe.toml"]),
        ("size = 10", 'size = "auto"\ntokenizer = "grown"', ["vocab.size", "vocab.tokenizer", "of one size"]),
        ("steps = 3", 'steps = "auto"', ["align.steps", "a whole number, got 'auto'"]),
        ("sequences = 4", 'sequences = 4\nlog = "wandb"', ["train.log", 'a list of strings such as ["tensorboard"]']),
        (
            "sequences = 4",
            'sequences = 4\nlog = ["wandb", "mlflow"]',
            ["train.log", "'mlflow' is not one of"],
        ),
        ("sequences = 4", "sequences = 0", ["train.sequences", "at least 1"]),
        ("steps = 3", "steps = 3\nlr = 0", ["align.lr", "above 0"]),
        ("steps = 3", "steps = 3\ncalibrate = 1.5", ["align.calibrate", "1.5", "at most 1.0"]),
        ("steps = 3", 'steps = 3\ninit = "random"', ["align.init", "'random'", "'subword+lexicon'"]),
        ('target = ["de.txt"]', 'target = "de.txt"', ["text.target", "list of strings"]),
        ('target = ["de.txt"]', 'target = ["de.txt", 5]', ["text.target", "list of strings"]),
        ('target = ["de.txt"]', "target = []", ["text.target", "missing"]),
        ("size = 10", "", ["vocab.size: left open"]),
        ('language = "German"', "", ["language: missing"]),
        ('language = "German"', 'language = "German"\nserve = 5', ["serve", "section"]),
        ('name = "tiny"', 'name = "a/b"', ["name", "'a/b'"]),
        ('name = "tiny"', 'name = ".."', ["name", "plain folder"]),
        ('name = "tiny"', 'name = ""', ["name", "plain folder"]),
        ('valid_target = "vd.txt"', 'valid_target = "vd.txt"\ngeneral_target = "g.txt"', ["text.general_english"]),
        ("sequences = 4", "sequences = 4\nwarmup = 0.8", ["train.decay", "0.8", "more than 1"]),
        ("sequences = 4", 'sequences = 4\nmethod = "peft"', ["train.method", "'peft'", "'qlora'"]),
        ("sequences = 4", "sequences = 4\nlora_rank = 0", ["train.lora_rank", "at least 1"]),
        (
            "sequences = 4",
            'sequences = 4\nmethod = "lora"\nembeddings_lr = 1e-4',
            ["train.embeddings_lr", 'train.method "lora"', "set it to 0"],
        ),
        (
            "sequences = 4",
            'sequences = 4\nmethod = "rows"\noptimizer = "adamw8bit"',
            ["train.optimizer", 'under "rows"', 'take "adamw"'],
        ),
        ('name = "tiny"', 'name = "tiny', ["recipe.toml", "not valid TOML", "line 2"]),
    ],
)
def test_what_is_refused_is_named(file: Path, old: str, new: str, words: list[str]):
    refused(file, old, new, *words)


@pytest.mark.parametrize("size", ["0", '"auto"'])
def test_rows_alone_need_new_tokens(file: Path, size: str):
    file.write_text(WHOLE.replace("size = 10", f"size = {size}"))
    with pytest.raises(RecipeError, match=r'^train\.method: "rows" .* vocab\.size above 0'):
        load_recipe(file, ["--train.method", "rows"], auto=True)


def test_all_that_is_wrong_is_said_at_once(file: Path):
    """Each fault in a line of its own, the flags' too, and nothing that only follows from another."""
    text = WHOLE.replace("[vocab]", "[vocabulary]").replace("sequences = 4", 'sequences = "four"\nwarmup = 0.8')
    text = text.replace("steps = 3", 'steps = 3\ninit = "file"\nlr = -1').replace('language = "German"\n', "")
    file.write_text(text.replace('target = ["de.txt"]', "target = []").replace("sequence_length = 32", ""))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, ["--train.stepz", "3", "--train.clip", "0", "--seed"])
    first, *lines = str(caught.value).split("\n  ")
    assert first == f"{file}: {len(lines)} things are wrong:"
    keys_of_lines = " ".join(sorted(line.split(":")[0] for line in lines))
    assert keys_of_lines == (
        "--seed --train.stepz align.lr align.rows data.sequence_length language text.target train.clip train.decay "
        "train.sequences vocabulary"
    )


FAULTS = {
    "language": ("", "language: missing"),
    "lexicon.path": ("path = 3", "lexicon.path: expected a string"),
    "align.steps": ("steps = -1", "align.steps: -1 is too small"),
    "data.sequence_length": (
        "sequence_lenght = 32",
        "data.sequence_lenght: unknown key; did you mean sequence_length?",
    ),
    "train.steps": ("steps = 6.5", "train.steps: expected a whole number"),
    "train.eval_every": ("eval_every = true", "train.eval_every: expected a whole number"),
}
"""By key: what its line becomes, and the one complaint that must follow."""


@given(st.sets(st.sampled_from(sorted(FAULTS)), min_size=1))
def test_faults_are_told_together_as_each_is_alone(tmp_path_factory: pytest.TempPathFactory, broken: set[str]):
    content, section = [], ""
    for line in WHOLE.splitlines():
        section = f"{line[1:-1]}." if line.startswith("[") else section
        key = section + line.partition(" = ")[0]
        content.append(FAULTS[key][0] if key in broken else line)
    file = tmp_path_factory.getbasetemp() / "broken.toml"
    file.write_text("\n".join(content), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    lines = str(caught.value).split("\n  ")
    assert len(lines) == (1 if len(broken) == 1 else len(broken) + 1)
    assert all(any(line.startswith(FAULTS[key][1]) for line in lines) for key in broken)


def test_a_recipe_that_is_not_utf8(file: Path):
    file.write_bytes(WHOLE.replace("German", "français").encode("latin-1"))
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(file)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_missing_recipe(tmp_path: Path, name: str):
    with pytest.raises(MissingInputError, match=r"no such recipe; `prealign init`") as caught:
        load_recipe(tmp_path / name)
    assert caught.value.exit_code == 66


def test_a_byte_order_mark_is_no_key(file: Path):
    file.write_text(WHOLE, encoding="utf-8-sig")
    assert load_recipe(file).name == "tiny"


def test_a_whole_number_is_a_number(file: Path):
    recipe = load_recipe(file, ["--train.lr", "1"])
    assert type(recipe.train.lr) is float and recipe.train.lr == 1.0


def test_auto_is_for_those_who_choose(file: Path):
    for flag in ("--vocab.size=auto", '--vocab.size="auto"'):
        assert load_recipe(file, [flag], auto=True).vocab.size == AUTO
    assert load_recipe(file, auto=True) == load_recipe(file)
    with pytest.raises(RecipeError, match="-1 is too small"):
        load_recipe(file, ["--vocab.size", str(AUTO)], auto=True)


def test_flags_override_the_file(file: Path):
    flags = ["--train.steps", "10", "--align.lr=2e-3", "--text.target", '["a.txt", "b.txt"]', "--seed=7", "--seed", "8"]
    flags += ["--codeswitch.labels", "vanilla", "--evaluate.before_training=false"]
    flags += ["--language", "Low German", "--serve.prompts_target=[]"]
    recipe = load_recipe(file, flags)
    assert recipe.train.steps == 10 and recipe.align.lr == 2e-3 and recipe.text.target == ("a.txt", "b.txt")
    assert recipe.seed == 8, "the last one holds"
    assert recipe.codeswitch.labels == "vanilla" and recipe.evaluate.before_training is False
    assert recipe.language == "Low German" and recipe.serve.prompts_target == ()


def test_a_flags_value_may_hold_an_equals_sign(file: Path):
    assert load_recipe(file, ["--base.model=a=b"]).base.model == "a=b"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.step", "10"], ["--train.step", "unknown key", "did you mean train.steps?"]),
        (["--train", "10"], ["--train", "unknown key"]),
        (["--folder", "/"], ["--folder", "unknown key", "-h lists all keys"]),
        (["--steps", "10"], ["--steps", "unknown key", "did you mean align.steps or train.steps or chat.steps?"]),
        (["--train.steps"], ["--train.steps", "value is missing"]),
        (["--train.steps", "ten"], ["train.steps", "a whole number", "'ten'"]),
        (["--train.steps", "0"], ["train.steps", "at least 1"]),
        (["--text.target", "a.txt"], ["text.target", "list of strings"]),
        (["train.steps", "10"], ["'train.steps'", "expected a flag"]),
        (["-s", "10"], ["'-s'", "expected a flag"]),
    ],
)
def test_flags_that_are_refused(file: Path, flags: list[str], words: list[str]):
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, flags)
    assert caught.value.exit_code == 78
    for word in words:
        assert word in str(caught.value)


def test_paths(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir("/")
    recipe = load_recipe(file)
    assert recipe.path(recipe.lexicon.path) == tmp_path / "../lexicon.tsv"
    assert recipe.paths(recipe.text.english) == [Path("/data/en.txt"), tmp_path / "cache/en.txt"]
    assert recipe.path("~/x.txt") == tmp_path / "home/x.txt"


def test_as_toml_reads_back(file: Path, tmp_path: Path):
    recipe = load_recipe(file, ["--serve.prompts_target", '["Er sagte: \\"ja\\"", "C:\\\\x", "zwei\\nZeilen", "Ünï"]'])
    text = as_toml(recipe)
    assert tomllib.loads(text) == as_dict(recipe)
    again = tmp_path / "again.toml"
    again.write_text(text, encoding="utf-8")
    assert load_recipe(again) == recipe
    assert "folder" not in text


def test_as_dict_names_every_key(file: Path):
    content = as_dict(load_recipe(file))
    dotted = [key for key, value in content.items() if not isinstance(value, dict)]
    dotted += [f"{key}.{name}" for key, value in content.items() if isinstance(value, dict) for name in value]
    assert sorted(dotted) == sorted(keys())


@given(
    st.one_of(
        st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text("aZ \"\\'#=[]\n\tÜя🙂")
    )
)
def test_any_value_reads_back(value: object):
    read = tomllib.loads(f"value = {toml(value)}")["value"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("character", ["\r", "\x01", "\x1b", "\x7f"])
def test_control_characters_read_back(character: str):
    assert tomllib.loads(f"value = {toml(character)}")["value"] == character


def test_a_flag_into_a_section_that_is_none(file: Path):
    file.write_text("serve = 5\n" + WHOLE, encoding="utf-8")
    with pytest.raises(RecipeError, match="serve: expected a section"):
        load_recipe(file, ["--serve.max_model_len", "32"])


@pytest.mark.parametrize("name", ["2024", "true", "1e3", "2024-01-01"])
def test_a_string_flag_may_look_like_a_number(file: Path, name: str):
    assert load_recipe(file, ["--name", name]).name == name


def test_folder_is_no_key(file: Path):
    refused(file, 'name = "tiny"', 'name = "tiny"\nfolder = "/data"', "folder", "unknown key")


def test_infinity_is_refused(file: Path):
    refused(file, "sequences = 4", "sequences = 4\nlr = inf", "train.lr", "inf")
