"""Words of a domain: which are taken, that they become one token and nothing old moves, and the rows of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pretune.batch import ragged
from pretune.cli import main
from pretune.errors import DataError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.vocabulary import extend_vocabulary
from pretune.text.tokenizer.extend import ExtendConfig, extend_tokenizer
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

GENERAL = ["the cat sat on the mat and the dog ran after it", "people read books about many things"] * 30
DOMAIN = ["the angioplasty of the stenosis", "stenosis and angioplasty, angioplasty again", "a thrombus"] * 8
CHINESE = ["经皮冠状动脉介入治疗", "冠状动脉狭窄的治疗"] * 8


def trained(kind: str, texts: list[str] = GENERAL) -> Tokenizer:
    return train_tokenizer(texts + ["abcdefghijklmnopqrstuvwxyz"] * 3, TokenizerConfig(kind=kind, vocab_size=340))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_domain_s_words_become_tokens_and_old_ids_stay(kind: str) -> None:
    old = trained(kind)
    actual = extend_tokenizer(old, DOMAIN, ExtendConfig(tokens=3, min_count=8))
    new = actual.tokenizer
    assert new.vocabulary.size == old.vocabulary.size + len(actual.words)
    assert new.subwords[: old.vocabulary.size] == old.subwords
    assert list(actual.words) == list(range(old.vocabulary.size, new.vocabulary.size))
    words = [candidate.word.lstrip("Ġ▁") for candidate in actual.words.values()]
    assert words[0] == "angioplasty"
    assert "stenosis" in words
    scores = [candidate.saved for candidate in actual.words.values()]
    assert scores == sorted(scores, reverse=True)
    for id, candidate in actual.words.items():
        assert new.token(id) == candidate.word
        assert candidate.saved == candidate.count * (len(candidate.subwords) - 1)
    text = "the cat had angioplasty"
    ids = new.encode(text)
    assert ids[-1] >= old.vocabulary.size
    assert new.decode(ids) == old.decode(old.encode(text))
    before, after = (sum(len(t.encode(text)) for text in DOMAIN) for t in (old, new))
    assert before - after == sum(scores)
    for text in GENERAL[:2]:
        assert new.encode(text).tolist() == old.encode(text).tolist()
    assert new.hash != old.hash


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_chinese_words_in_runs_without_spaces(kind: str, tmp_path: Path) -> None:
    """The pipeline leaves the run whole; a word is not taken twice, as a piece and as an added token."""
    characters = [f"{a}，{b}。" for a, b in zip("经皮冠状动脉介入", "治疗狭窄的手术后", strict=True)] * 4
    old = trained(kind, GENERAL + characters)
    (tmp_path / "words.txt").write_text("冠状动脉\n治疗\n介入\n", encoding="utf-8")
    texts = [*CHINESE, *["好，治疗，介入。"] * 9]
    actual = extend_tokenizer(old, texts, ExtendConfig(segmenter=str(tmp_path / "words.txt")))
    words = [candidate.word for candidate in actual.words.values()]
    assert {"冠状动脉", "治疗", "介入"} <= set(words)
    assert len(set(words)) == len(words) == actual.tokenizer.vocabulary.size - old.vocabulary.size
    for text in ("冠状动脉的治疗", "好，介入。"):
        ids = actual.tokenizer.encode(text)
        assert len(ids) < len(old.encode(text))
        assert actual.tokenizer.decode(ids) == old.decode(old.encode(text))


def test_chinese_words_through_a_segmenter(tmp_path: Path) -> None:
    old = trained("wordpiece", GENERAL + CHINESE)
    (tmp_path / "words.txt").write_text("冠状动脉\n治疗\n介入\n", encoding="utf-8")
    actual = extend_tokenizer(old, CHINESE, ExtendConfig(segmenter=str(tmp_path / "words.txt")))
    assert next(c.word for c in actual.words.values()) == "冠状动脉"
    tokens = [actual.tokenizer.token(int(i)) for i in actual.tokenizer.encode("冠状动脉的治疗")]
    assert tokens == ["冠状动脉", "的", "治疗"]
    assert actual.tokenizer.subwords[: old.vocabulary.size] == old.subwords
    actual.tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.encode("冠状动脉的治疗").tolist() == actual.tokenizer.encode("冠状动脉的治疗").tolist()


def test_no_word_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="knows this text"):
        extend_tokenizer(trained("wordpiece"), GENERAL, ExtendConfig(min_count=10_000))


@pytest.mark.parametrize(
    ("family", "heads"), [("bert", ["mlm"]), ("gpt2", ["clm"]), ("modernbert", ["mlm"]), ("t5", ["clm"])]
)
def test_new_rows_are_the_mean_of_their_pieces_and_old_outputs_stay(family: str, heads: list[str]) -> None:
    model = build(family, "tiny", heads, {"vocab_size": 50}).eval()
    batch = ragged([[7, 9, 30], [12, 44]])
    if hasattr(model, "encoder"):
        batch = type(batch)(batch.tokens, batch.layout, source=ragged([[3, 4], [8]]))
    (head,) = model.heads.values()
    with torch.no_grad():
        if head.bias is not None:
            head.bias.normal_()
        before = head(model(batch).last_hidden_state)
    word, weight = model.embedding.word.weight.clone(), head.weight.clone()
    tied = head.weight is model.embedding.word.weight
    extend_vocabulary(model, 53, {50: [7, 9], 51: [12], 52: [1, 2, 3]})
    assert model.vocab_size == 53 == model.config.vocab_size
    assert (head.weight is model.embedding.word.weight) == tied
    torch.testing.assert_close(model.embedding.word.weight[50], word[[7, 9]].mean(0))
    torch.testing.assert_close(head.weight[52], weight[[1, 2, 3]].mean(0))
    with torch.no_grad():
        after = head(model(batch).last_hidden_state)
    torch.testing.assert_close(after[:, :50], before)
    torch.testing.assert_close(after[:, 51], before[:, 12])
    with pytest.raises(DataError, match="outside the vocabulary"):
        extend_vocabulary(model, 54, {53: [60]})


def test_the_verb_makes_a_model_that_goes_on(tmp_path: Path, write: Callable[[Path, list[str]], str]) -> None:
    tokenizer = trained("wordpiece")
    model = build("bert", "tiny", ["mlm"], {"vocab_size": tokenizer.vocabulary.size})
    save_model(model, tmp_path / "model", tokenizer)
    text = write(tmp_path / "domain.txt", [f"{line} {n}" for n, line in enumerate(DOMAIN)])
    words = ["tokenizer", "extend", text, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "more")]
    assert main([*words, "--min_count", "8", "--corpus.documents", "line"]) == 0
    new, words_of = load_model(tmp_path / "more"), Tokenizer.load(tmp_path / "more")
    assert new.vocab_size == words_of.vocabulary.size > tokenizer.vocabulary.size
    old_ids = tokenizer.encode("angioplasty").tolist()
    (id,) = words_of.encode("angioplasty").tolist()
    expected = model.embedding.word.weight[old_ids].mean(0)
    torch.testing.assert_close(new.embedding.word.weight[id], expected)
    assert np.isfinite(new.embedding.word.weight.detach().numpy()).all()
    assert main(words) == 73
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "more")
    assert theirs.encode("angioplasty", add_special_tokens=False) == [id]


def test_the_verb_extends_a_model_in_0_transformer(tmp_path: Path, write: Callable[[Path, list[str]], str]) -> None:
    """Older `sentence-transformers` keep a model there: its tokenizer was extended, and the model left out."""
    tokenizer = trained("wordpiece")
    model = build("bert", "tiny", ["mlm"], {"vocab_size": tokenizer.vocabulary.size})
    save_model(model, tmp_path / "model/0_Transformer", tokenizer)
    entry = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    (tmp_path / "model/modules.json").write_text(json.dumps([entry, pooling]))
    (tmp_path / "model/1_Pooling").mkdir()
    fields = {"word_embedding_dimension": model.width, "pooling_mode_mean_tokens": True}
    (tmp_path / "model/1_Pooling/config.json").write_text(json.dumps(fields))
    text = write(tmp_path / "domain.txt", [f"{line} {n}" for n, line in enumerate(DOMAIN)])
    words = ["tokenizer", "extend", text, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "more")]
    assert main([*words, "--min_count", "8", "--corpus.documents", "line"]) == 0
    new = load_model(tmp_path / "more")
    assert new.vocab_size == Tokenizer.load(tmp_path / "more").vocabulary.size > tokenizer.vocabulary.size
    assert new.vectors is not None
    assert new.vectors.pooling == "mean"


@pytest.fixture
def write() -> Callable[[Path, list[str]], str]:
    def writing(path: Path, texts: list[str]) -> str:
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        return str(path)

    return writing
