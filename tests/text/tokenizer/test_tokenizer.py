"""Tokenizers: the files of others, text that looks like special tokens, vocabularies; `transformers` is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers

from pretune.errors import DataError, MissingInputError
from pretune.text.tokenizer.join import join_han
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on. It's 3.14 or 2,718!",
    "Attention is all you need; models of language learn from text, and text is what people write down.",
    "深度学习模型从文本中学习语言。你好，世界！我们在学习。",
    "Über den Wolken muß die Freiheit wohl grenzenlos sein: déjà vu, naïve café.",
] * 8
HARD = "Hello  [MASK] wörld\n\tit's <|endoftext|> <mask>[SEP] 你好。x😀 </s> <unk>[UNK] \u200bé́ ﬁ"


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXT, TokenizerConfig(kind=request.param, vocab_size=600))


def specials(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    added = tokenizer.layout["added_tokens"]
    return [(token["content"], token["id"]) for token in added]


def test_no_special_token_comes_out_of_text(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    for name, i in specials(tokenizer):
        for text in (name, f"a {name} b", f"x{name}y", name * 3, f"\n{name}\n", f"{name.lower()} {name}"):
            assert i in tokenizer.encode(text, allow_special=True), "the positive control"
            actual = tokenizer.encode(text)
            plain = set(np.flatnonzero(~vocabulary.special).tolist()) | {vocabulary.unk}
            assert set(actual.tolist()) <= plain, (name, text)
            if i != vocabulary.unk:
                assert i not in actual
                assert all(i not in run for run in tokenizer.encode_batch(["a", text, text]))
                assert i not in tokenizer.encode_offsets(text)[0]


def test_unigram_pieces_of_other_files_do_not_leak(tmp_path: Path) -> None:
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<mask>", 0.0), *((f"{c}", -5.0) for c in "▁<mask>/s")]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<mask>"])
    backend.encode_special_tokens = True
    assert 3 in backend.encode("a <mask>", add_special_tokens=False).ids, "the library alone lets it through"
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode("a <mask></s>").max() > 3
    assert not {1, 2, 3} & set(Tokenizer.load(tmp_path).encode("a <mask></s>").tolist())


def test_saved_tokenizer_is_the_same_for_us_and_for_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.hash == tokenizer.hash == Tokenizer.load(tmp_path / "tokenizer.json").hash
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXT[:4], HARD]:
        assert oracle.encode(text, add_special_tokens=False) == tokenizer.encode(text, allow_special=True).tolist()
        np.testing.assert_array_equal(again.encode(text), tokenizer.encode(text))
        wrapped = tokenizer.vocabulary.add_special_tokens(tokenizer.encode(text, True))[0]
        assert oracle.encode(text) == wrapped.tolist()
    assert len(oracle) == tokenizer.vocabulary.size
    assert oracle.model_max_length == 512
    for role in ("pad", "cls", "sep", "mask", "bos", "eos", "unk"):
        assert getattr(oracle, f"{role}_token_id") == getattr(tokenizer.vocabulary, role), role
    pair = oracle(TEXT[0], TEXT[1])
    tokens, segments = tokenizer.vocabulary.add_special_tokens(tokenizer.encode(TEXT[0]), tokenizer.encode(TEXT[1]))
    assert pair["input_ids"] == tokens.tolist()
    bert = tokenizer.vocabulary.cls is not None and tokenizer.vocabulary.sep is not None
    assert pair.get("token_type_ids") == (segments.tolist() if bert else None)


def test_bert_class_of_transformers_reads_ours(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(vocab_size=600))
    tokenizer.save(tmp_path)
    oracle = transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in [*TEXT[:4], HARD]:
        assert oracle.encode(text, add_special_tokens=False) == tokenizer.encode(text, allow_special=True).tolist()
    pair = oracle(TEXT[0], TEXT[1])
    tokens, segments = tokenizer.vocabulary.add_special_tokens(tokenizer.encode(TEXT[0]), tokenizer.encode(TEXT[1]))
    assert (pair["input_ids"], pair["token_type_ids"]) == (tokens.tolist(), segments.tolist())


def test_padding_and_truncation_of_the_file_are_dropped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=300)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    np.testing.assert_array_equal(loaded.encode(TEXT[0]), tokenizer.encode(TEXT[0]))
    np.testing.assert_array_equal(loaded.encode(TEXT[0], True), tokenizer.encode(TEXT[0], True))
    assert loaded.hash == tokenizer.hash


def test_bpe_dropout_of_a_file_is_not_drawn(tmp_path: Path) -> None:
    """37 encodings of one text in 50 calls, by `tokenizers` alone."""
    backend = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=400)).backend
    expected = backend.encode(TEXT[0]).ids
    backend.model.dropout = 0.3
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len({tuple(backend.encode(TEXT[0]).ids) for _ in range(20)}) > 5, "the library alone draws"
    loaded = Tokenizer.load(tmp_path)
    assert {tuple(loaded.encode(TEXT[0]).tolist()) for _ in range(20)} == {tuple(expected)}
    assert {tuple(loaded.encode(TEXT[0], allow_special=True).tolist()) for _ in range(20)} == {tuple(expected)}
    assert "field 'model.dropout' = 0.3" in loaded.notes[0]
    loaded.save(tmp_path / "out")
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {tuple(oracle.encode(TEXT[0])) for _ in range(20)} == {tuple(expected)}


@pytest.mark.parametrize(
    "text",
    ["的的一", "你好，世界！", "他说：“好。”", "一九九八年（1998年3月）", "日本語は難しい。", "我 love 你 very much"],
)
def test_chinese_comes_back_without_spaces(text: str) -> None:
    """`transformers` decodes `的 的 一`; a decoder with BERT's vocabulary writes Chinese as it was read."""
    tokenizer = train_tokenizer([text] * 20, TokenizerConfig(vocab_size=200))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_spaces_of_added_chinese_words_go_too() -> None:
    """An added word comes with a space of its own on each side."""
    assert join_han("在  北京  ， 1998 年 GPT 模  型") == "在北京，1998年 GPT 模型"
    assert join_han(join_han("在  北京  ， x")) == join_han("在  北京  ， x")


def test_chinese_in_a_tokenizer_that_keeps_spaces() -> None:
    """Spaces go only where the tokenizer put them."""
    for kind in ("bpe", "unigram"):
        tokenizer = train_tokenizer(TEXT, TokenizerConfig(kind=kind, vocab_size=400))
        assert tokenizer.decode(tokenizer.encode("学 习 语言")) == "学 习 语言"


def test_offsets_lie_in_the_original_text(tokenizer: Tokenizer) -> None:
    text = "Hi Ünïcode 你好。 😀 dog  the"
    ids, offsets = tokenizer.encode_offsets(text)
    np.testing.assert_array_equal(ids, tokenizer.encode(text))
    assert offsets.shape == (len(ids), 2)
    assert (offsets >= 0).all()
    assert (offsets <= len(text)).all()
    spans = [text[a:b] for a, b in offsets.tolist()]
    assert {"你", "好", "。"} <= set("".join(spans))
    assert all(span == span.strip() for span in spans)
    assert spans[-1].endswith("e")
    assert tokenizer.encode_offsets("")[1].shape == (0, 2)


def test_byte_level_offsets_of_a_character_cut_in_bytes() -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=300))
    ids, offsets = tokenizer.encode_offsets("a😀b")
    assert len(ids) == 6
    assert offsets.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [1, 2], [2, 3]]
    assert tokenizer.decode(ids) == "a😀b"


def test_lone_surrogate_is_named(tokenizer: Tokenizer) -> None:
    for call in (tokenizer.encode, tokenizer.encode_offsets):
        with pytest.raises(DataError, match=r"U\+D83D at character 2"):
            call("ab\ud83dc")
    with pytest.raises(DataError, match="text 2 of 2"):
        tokenizer.encode_batch(["fine", "\udc00"])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_continuation_of_words(kind: str) -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(kind=kind, vocab_size=600))
    words: list[str] = []
    for i in tokenizer.encode(" dog, jumpsover 3 foxes").tolist():
        piece = tokenizer.token(i).replace("##", "")
        if tokenizer.vocabulary.continuation[i]:
            words[-1] += piece
        else:
            words.append(piece)
    assert [word.strip("Ġ▁") for word in words] == ["dog", ",", "jumpsover", "3", "foxes"]


def test_chinese_characters_are_words() -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(vocab_size=600))
    ids = tokenizer.encode("学习模型。language学")
    assert [tokenizer.token(i) for i in ids] == ["学", "习", "模", "型", "。", "language", "学"]
    assert not tokenizer.vocabulary.continuation[ids].any()
    whole = train_tokenizer(TEXT, TokenizerConfig(vocab_size=600, split_chinese=False))
    assert len(whole.encode("学习模型")) == 1 or whole.vocabulary.continuation[whole.encode("学习模型")].any()


def test_byte_level_continuation_table() -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=600))
    table = {tokenizer.token(i): bool(tokenizer.vocabulary.continuation[i]) for i in range(tokenizer.vocabulary.size)}
    assert not any(value for piece, value in table.items() if piece[0] in "ĠĊĉč,.!")
    assert all(table[c] for c in "abcxyz09")
    assert not table["<|endoftext|>"]
    assert all(table[c] for c in ("©", "Ģ", "Ã")), "later bytes of a character, and the first of an accented letter"
    assert not table["ä"], "the first byte of Chinese"


def test_wrap_and_overhead() -> None:
    bert = train_tokenizer(TEXT, TokenizerConfig(vocab_size=600)).vocabulary
    tokens, segments = bert.add_special_tokens([10, 11], [12])
    assert tokens.tolist() == [bert.cls, 10, 11, bert.sep, 12, bert.sep]
    assert segments.tolist() == [0, 0, 0, 0, 1, 1]
    assert (bert.overhead(False), bert.overhead(True), bert.end) == (2, 3, bert.sep)
    gpt = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=600)).vocabulary
    assert gpt.add_special_tokens([10, 11], [12])[0].tolist() == [10, 11, 12]
    assert (gpt.overhead(True), gpt.end) == (0, gpt.eos)


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s", "wor", "##ld", "你", "好", "e"]


@pytest.mark.parametrize(("settings", "lower"), [(None, True), ({"do_lower_case": False}, False)])
def test_bert_vocab_txt(tmp_path: Path, settings: dict[str, bool] | None, lower: bool) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(tmp_path)
    oracle = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lower)
    for text in ("Hello hellos world 你好é!", "HELLO", "[MASK] hello"):
        assert tokenizer.encode(text, True).tolist() == oracle.encode(text, add_special_tokens=False)
    assert (tokenizer.vocabulary.mask, tokenizer.vocabulary.size) == (4, len(VOCAB))
    tokenizer.save(tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").hash == tokenizer.hash


@pytest.mark.parametrize("entry", ["Hello", "<S>", "[unused1]"])
def test_one_capital_word_does_not_make_a_vocabulary_cased(entry: str, tmp_path: Path) -> None:
    """Google's Chinese BERT holds `<S>`: `Hello World 我好` is `hello world 我 好`, not `[UNK] [UNK] 我 好`."""
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, entry]) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    for text in ("Hello World 我好", "HELLO", entry):
        assert tokenizer.encode(text, True).tolist() == oracle.encode(text, add_special_tokens=False)
    assert tokenizer.encode("Hello").tolist() == tokenizer.encode("hello").tolist() == [VOCAB.index("hello")]


def test_gpt2_vocab_and_merges(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=400))
    tokenizer.backend.model.save(str(tmp_path))
    loaded = Tokenizer.load(tmp_path)
    for text in [*TEXT[:4], HARD]:
        np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    assert loaded.vocabulary.end == tokenizer.vocabulary.end
    oracle = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert oracle.encode(HARD) == loaded.encode(HARD, allow_special=True).tolist()


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such tokenizer"):
        Tokenizer.load(tmp_path / "none")
    with pytest.raises(MissingInputError, match=r"vocab\.txt"):
        Tokenizer.load(tmp_path)
    file = tmp_path / "tokenizer.json"
    for content, problem in (
        ("{", "JSON"),
        ("[]", "JSON object"),
        ("{}", "no field 'model'"),
        ('{"model": {"type": "What"}}', "tokenizers library"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=problem):
            Tokenizer.load(file)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="JSON"):
        Tokenizer.load(file)
    file.unlink()
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"no '\[UNK\]', the unknown token"):
        Tokenizer.load(tmp_path)


def test_absurd_ids_are_refused(tmp_path: Path) -> None:
    layout = {**train_tokenizer(TEXT, TokenizerConfig(vocab_size=600)).layout}
    layout["model"] = {**layout["model"], "vocab": {"[UNK]": 0, "a": 4_000_000_000}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout))
    with pytest.raises(DataError, match="largest id"):
        Tokenizer.load(tmp_path)


def test_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    for bad in (-1, tokenizer.vocabulary.size):
        with pytest.raises(DataError, match="outside the vocabulary"):
            tokenizer.decode([1, bad])
        with pytest.raises(DataError, match="outside the vocabulary"):
            tokenizer.token(bad)


def test_end_needs_a_token(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(DataError, match="eos_token"):
        _ = Tokenizer.load(tmp_path).vocabulary.end
