"""Small base tokenizers, trained on a few English sentences when first asked for."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ENGLISH = [
    "The quick brown fox jumps over the lazy dog while the children watch from the garden.",
    "In the morning she reads the newspaper and drinks a cup of coffee with milk.",
    "Water is necessary for every living thing on the earth, and the rivers carry it to the sea.",
    "He asked whether the train would arrive before noon, but nobody at the station knew.",
    "The house on the hill was built by my grandfather in nineteen hundred and twelve.",
    "I'll tell you what we're doing: it's a test of the tokenizer's behaviour, isn't it?",
]
TARGET = {
    "german": [
        "Die Kinder spielen im Garten, während die Großmutter das Frühstück für die Familie zubereitet.",
        "Wir müssen die Geschwindigkeit prüfen, bevor wir über die Brücke nach München fahren können.",
        "Das Mädchen fährt mit dem Fahrrad zur Schule und spricht über schöne Bücher und große Städte.",
        "Die Brücke über den Fluss ist schön; die Städte und die Bücher der Familie sind größer.",
    ],
    "russian": [
        "Дети играют в саду, а бабушка готовит завтрак для всей семьи.",
        "Мы должны проверить скорость, прежде чем поедем через мост в большой город.",
        "Девочка едет на велосипеде в школу и говорит о красивых книгах и больших городах.",
        "Дети говорят о книгах, о школе и о городе; бабушка говорит о семье и о саде.",
    ],
    "hindi": [
        "बच्चे बगीचे में खेल रहे हैं और दादी परिवार के लिए नाश्ता बना रही हैं।",
        "हमें पुल पार करके शहर जाने से पहले गति की जाँच करनी चाहिए।",
        "लड़की साइकिल से स्कूल जाती है और किताबों के बारे में बात करती है।",
        "बच्चे स्कूल जाते हैं और परिवार के बारे में बात करते हैं।",
    ],
}
SPECIAL = "<|endoftext|>"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(folder: Path, *, llama3: bool) -> Path:
    """A byte-level BPE; with `llama3` its special token lies behind the vocabulary and merges may be ignored."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=llama3))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only]) if llama3 else bytes_only
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[] if llama3 else [SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(ENGLISH * 3, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL)
    wrapped.chat_template = "{{ messages[0].content }}"
    wrapped.save_pretrained(folder)
    if llama3:  # keep the special token out of the model's vocabulary, as Llama 3 does
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["vocab"].pop(SPECIAL, None)
        path.write_text(json.dumps(content))
    return folder


def sentence_piece(folder: Path) -> Path:
    """A SentencePiece BPE with byte fallback, as Llama 2's: tokenizer.model only."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
    )
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "bytelevel": byte_level(root / "bytelevel", llama3=False),
        "llama3": byte_level(root / "llama3", llama3=True),
        "spm": sentence_piece(root / "spm"),
    }
