"""Tokens that stand for text which the vocabulary does not have are counted and shown, by verbs and in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.cli import main
from pretune.model import Model
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import count_unknown, describe_cut, describe_unknown, say_unknown

CHINESE = ["天地玄黄", "宇宙洪荒", "日月盈昃", "the cat"]
READ = "unknown to the tokenizer, so that the model cannot read them, such as"
ENGLISH = (
    f"warning: 12 of 14 tokens (85.7%) {READ} '天', '地', '玄', '黄', '宇'; use a model whose tokenizer knows this text"
)


def test_counts_and_samples() -> None:
    tokenizer = word_tokenizer()
    with count_unknown(tokenizer) as counter:
        tokenizer.encode_batch(CHINESE[:2])
        tokenizer.encode_kept(CHINESE[2:])
    ids = [i for text in CHINESE for i in tokenizer.encode(text).tolist()]
    assert (counter.unknown, counter.tokens) == (ids.count(tokenizer.vocabulary.unk or 0), len(ids)) == (12, 14)
    assert counter.summary() == ENGLISH
    assert tokenizer.counter is None


def test_few_unknown_tokens_are_no_warning_and_one_is_singular() -> None:
    assert describe_unknown(0, 5, "", "", "mend it") is None
    assert describe_unknown(1, 9999, "a.txt", "", "") == ("1 of 9,999 tokens of a.txt (<0.1%) unknown to the tokenizer")
    assert str(describe_unknown(1, 1, "", "", "mend it")).startswith("warning: 1 of 1 token (100.0%) unknown to ")
    assert describe_cut(1, "1 training text", 64) == "1 of 1 training text cut to 64 tokens"


def test_words_over_the_bound_are_counted() -> None:
    """A word of more than 100 characters is one unknown token."""
    tokenizer = word_tokenizer()
    with count_unknown(tokenizer) as counter:
        tokenizer.encode_batch(["cat" * 40, "the cat", "a" * 100])
    assert counter.long_words == 1
    assert counter.sample == ["catcatcatcatcatcatca..."]
    assert str(counter.summary()).endswith("; 1 word longer than it allows")


def test_a_run_of_many_words_is_no_long_word() -> None:
    """Chinese has no spaces, and signs end words too: such runs were counted as words that are too long."""
    tokenizer = word_tokenizer()
    with count_unknown(tokenizer) as counter:
        tokenizer.encode_batch(["的" * 60 + "一" * 60, "cat-hat/" * 30, *CHINESE, "dog, " + "cat" * 40])
    assert len(counter.sample) == 5
    assert counter.long_words == 1


def test_a_tokenizer_of_bytes_knows_all(caplog: pytest.LogCaptureFixture) -> None:
    with say_unknown(byte_tokenizer()):
        byte_tokenizer().encode_batch(CHINESE)
    assert not caplog.text


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "fill", word_tokenizer())
    save_bert(root / "predict", word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
    save_gpt2(root / "generate", word_tokenizer())
    return {path.name: path for path in root.iterdir()}


CALLS: dict[str, tuple[str, Callable[[Model], object]]] = {
    "predict": ("predict", lambda model: model.predict(CHINESE)),
    "evaluate": ("predict", lambda model: model.evaluate([{"text": t, "label": "bad"} for t in CHINESE])),
    "embed": ("predict", lambda model: model.embed(CHINESE)),
    "fill": ("fill", lambda model: model.fill("天地 [MASK]")),
    "generate": ("generate", lambda model: model.generate(CHINESE, max_new_tokens=1)),
    "stream": ("generate", lambda model: list(model.stream(CHINESE[0], max_new_tokens=1))),
    "score": ("generate", lambda model: model.score(CHINESE)),
}


@pytest.mark.parametrize("verb", CALLS)
def test_every_use_says_it_once(verb: str, models: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    folder, call = CALLS[verb]
    call(pretune.load(models[folder], device="cpu", precision="fp32"))
    lines = [record.getMessage() for record in caplog.records if "unknown to the tokenizer" in record.getMessage()]
    assert len(lines) == 1
    assert "such as '天'" in lines[0]


def test_a_verb_says_it_once_for_all_its_texts(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("\n".join(CHINESE * 300) + "\n", encoding="utf-8")
    flags = ("--input", tmp_path / "in.txt", "--output", tmp_path / "out.csv", "--device", "cpu")
    assert main([*map(str, ("predict", models["predict"], *flags)), "--no-allocator"]) == 0
    assert capsys.readouterr().err.count("warning: 3,600 of 4,200 tokens (85.7%) unknown to the tokenizer") == 1
    (tmp_path / "in.txt").write_text(f"the cat\n{'the cat ' * 40}\n" * 600, encoding="utf-8")
    for verb in ("predict", "embed"):
        (tmp_path / "out.csv").unlink()
        assert main([*map(str, (verb, models["predict"], *flags)), "--no-allocator"]) == 0
        output = capsys.readouterr().err
        assert output.count(" cut to ") == output.count("600 of 1,200 texts cut to 48 tokens") == 1


def test_prepare_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word_tokenizer().save(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text("\n\n".join(CHINESE), encoding="utf-8")
    words = ("prepare", tmp_path / "text.txt", "--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "store")
    assert main([*map(str, words), "--validation", "0", "--no-allocator"]) == 0
    output = capsys.readouterr().err
    assert f"warning: 12 of 18 tokens (66.7%) {READ} '天', '地'" in output
    assert f"with that one: pretune tokenizer train {tmp_path / 'text.txt'} --output new-tokenizer\n" in output
    save_bert(tmp_path / "bert", word_tokenizer())
    words = ("evaluate", tmp_path / "bert", tmp_path / "store", "--split", "train", "--device", "cpu")
    assert main([*map(str, words), "--no-allocator"]) == 0
    assert "warning: 12 of 18 tokens of" in capsys.readouterr().err


def test_training_says_it_and_compares_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other Chinese texts of one length were "there more than once" and "training data too"."""
    Tokenizer.save(word_tokenizer(), tmp_path / "tokenizer")
    characters = [chr(0x4E00 + n) for n in range(200)]
    for name, first in (("train", 0), ("validation", 80)):
        texts = ["".join(characters[n : n + 2]) for n in range(first, first + 40)]
        rows = "".join(f"{text}\t{n % 2}\n" for n, text in enumerate(texts))
        (tmp_path / f"{name}.tsv").write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    data = {name: [str(tmp_path / f"{name}.tsv")] for name in ("train", "validation")}
    recipe = {"task": "classification", "model": {"size": "tiny"}, "budget": {"steps": 2}}
    data_fields = {**data, "tokenizer": str(tmp_path / "tokenizer"), "length": 16}
    pretune.finetune({**recipe, "data": data_fields, "output": str(tmp_path / "run"), "track": {"report": False}})
    output = " ".join(capsys.readouterr())
    assert f"warning: 80 of 80 tokens of the training texts (100.0%) {READ}" in output
    assert "or add its words to the tokenizer (pretune tokenizer extend)" in output
    assert "tokens of the validation texts" in output
    assert "duplicates" not in output
    assert "also in the training data" not in output


def test_prepare_counts_words_that_are_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word_tokenizer().save(tmp_path / "tokenizer")
    texts = ["the cat", *CHINESE, f"the {'a' * 101} and {'b' * 100}", "c" * 5000]
    (tmp_path / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    words = ("prepare", tmp_path / "text.txt", "--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "store")
    assert main([*map(str, words), "--validation", "0", "--no-allocator"]) == 0
    assert "; 2 words of more than 100 characters in the first 2,000 documents, one unknown token each" in (
        capsys.readouterr().err
    )
