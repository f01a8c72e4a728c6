"""Vectors of tokens, words and texts from chosen layers: those of `transformers`, with their places in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tinymodels import byte_tokenizer, save_bert, word_tokenizer

import pretune
from pretune.errors import DataError, NonFiniteError, UsageError
from pretune.evaluate.embed_parts import PartEmbedder
from pretune.text.samples.windows import plan_windows, word_starts
from pretune.text.tokenizer.tokenizer import Tokenizer

TEXT = "The quick brown fox jumps, don't you think?"
OTHER = "the cat ate a hat"
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
POSITIONS: dict[str, Any] = {"max_position_embeddings": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**SMALL, **POSITIONS}),
    "roberta": ("Roberta", {**SMALL, "max_position_embeddings": 66, "pad_token_id": 1}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, **POSITIONS}),
    "albert": ("Albert", {**SMALL, **POSITIONS, "embedding_size": 16}),
    "electra": ("Electra", {**SMALL, **POSITIONS, "embedding_size": 16}),
    "modernbert": ("ModernBert", {**SMALL, **POSITIONS, "pad_token_id": 0, "reference_compile": False}),
    "xlnet": ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "llama": ("Llama", {**SMALL, **POSITIONS, "num_key_value_heads": 2}),
    "t5": ("T5", {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48, "decoder_start_token_id": 0}),
    "bart": (
        "Bart",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4}
        | {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, **POSITIONS},
    ),
}


def tokenizer_of(family: str) -> Tokenizer:
    return byte_tokenizer() if family in ("gpt2", "llama") else word_tokenizer()


def save(family: str, folder: Path) -> Any:
    """A random model of `transformers`, and its files."""
    name, fields = FAMILIES[family]
    tokenizer = tokenizer_of(family)
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(vocab_size=tokenizer.vocabulary.size, **fields)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


def hidden_states(model: Any, tokenizer: Tokenizer, text: str) -> list[np.ndarray[Any, Any]]:
    """What `output_hidden_states` gives for the tokens of a text, without the special ones."""
    tokens = tokenizer.encode(text)
    run, _ = tokenizer.vocabulary.add_special_tokens(tokens)
    mask = tokenizer.vocabulary.text_mask(len(tokens))
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        states = encoder(torch.from_numpy(run)[None], output_hidden_states=True).hidden_states
    return [state[0].float().numpy()[mask] for state in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    theirs = save(family, tmp_path)
    ours = pretune.load(tmp_path, device="cpu", precision="fp32")
    for text, part in zip(
        (TEXT, OTHER), ours.embed([TEXT, OTHER], of="tokens", layers=[0, 1, 2], combine="list"), strict=True
    ):
        expected = hidden_states(theirs, tokenizer_of(family), text)
        assert part.vectors.shape == (len(part), 3, 32)
        for layer in range(3):
            np.testing.assert_allclose(part.vectors[:, layer], expected[layer], rtol=2e-4, atol=2e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    save_bert(path, word_tokenizer())
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return pretune.load(folder, device="cpu", precision="fp32")


def test_words_have_their_places_and_the_mean_of_their_tokens(model: Any) -> None:
    (words,) = model.embed(TEXT, of="words")
    assert words.parts == ["The", "quick", "brown", "fox", "jumps", ",", "don", "'", "t", "you", "think", "?"]
    assert [TEXT[start:end] for start, end in words.offsets] == words.parts
    (tokens,) = model.embed(TEXT, of="tokens")
    for word, (start, end) in enumerate(words.offsets.tolist()):
        inside = [n for n, (a, b) in enumerate(tokens.offsets.tolist()) if a < end and b > start]
        np.testing.assert_allclose(words.vectors[word], tokens.vectors[inside].mean(axis=0), atol=1e-5)
    (firsts,) = model.embed(TEXT, of="words", word_vector="first", normalize=True)
    first = tokens.vectors[[n for n, (a, _) in enumerate(tokens.offsets.tolist()) if a in words.offsets[:, 0]]]
    np.testing.assert_allclose(firsts.vectors, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5)


def test_chinese_words_are_those_of_a_segmenter(model: Any) -> None:
    text = "模型 learns 语言"
    assert model.embed(text, of="words")[0].parts == ["模", "型", "learns", "语", "言"]
    pytest.importorskip("jieba")
    (words,) = model.embed(text, of="words", segmenter="jieba")
    assert words.parts == ["模型", "learns", "语言"]
    assert words.offsets.tolist() == [[0, 2], [3, 9], [10, 12]]


def test_layers_are_combined(model: Any) -> None:
    several = model.embed([TEXT, OTHER], of="tokens", layers=[-1, 0], combine="list")
    for how, expected in (
        ("mean", [part.vectors.mean(axis=1) for part in several]),
        ("concat", [part.vectors.reshape(len(part), -1) for part in several]),
    ):
        actual = model.embed([TEXT, OTHER], of="tokens", layers=[-1, 0], combine=how)
        for part, wanted in zip(actual, expected, strict=True):
            np.testing.assert_allclose(part.vectors, wanted, atol=1e-6)
    last = model.embed([TEXT, OTHER])
    np.testing.assert_allclose(model.embed([TEXT, OTHER], layers=[-1]), last, atol=1e-5)
    layers = model.embed([TEXT, OTHER], layers=[-1, 0], combine="list")
    assert layers.shape == (2, 2, last.shape[1])
    np.testing.assert_allclose(layers[:, 0], last, atol=1e-5)
    np.testing.assert_allclose(model.embed([TEXT, OTHER], layers=[-1, 0]), layers.mean(axis=1), atol=1e-5)
    unit = model.embed([TEXT, OTHER], layers=[-1, 0], combine="list", normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=2), 1, atol=1e-6)


def test_the_first_numbers_of_a_vector(model: Any) -> None:
    whole = model.embed([TEXT, OTHER])
    np.testing.assert_allclose(model.embed([TEXT, OTHER], dim=8), whole[:, :8], atol=1e-6)
    short = model.embed([TEXT, OTHER], dim=8, normalize=True)
    np.testing.assert_allclose(short, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)


def test_long_texts_are_read_in_windows(model: Any) -> None:
    """Each token has the vector of the window that answers for it; a text that fits has that of one forward."""
    text = " ".join([TEXT, OTHER] * 10)
    (tokens,) = model.embed(text, of="tokens")
    tokenizer = word_tokenizer()
    encoded, offsets = tokenizer.encode_offsets(text)
    assert len(tokens) == len(encoded) > 3 * 46
    assert tokens.offsets.tolist() == offsets.tolist()
    starts = word_starts(encoded, offsets, tokenizer.vocabulary.continuation)
    windows = plan_windows(starts, 46, 11)
    assert len(windows) > 3
    seen = np.zeros(len(tokens), int)
    for window in windows:
        part = text[offsets[window.index[0], 0] : offsets[window.index[-1], 1]]
        (alone,) = model.embed(part, of="tokens")
        np.testing.assert_allclose(tokens.vectors[window.answers], alone.vectors[window.answers_for], atol=1e-5)
        seen[window.answers] += 1
    assert (seen == 1).all()
    together = model.embed([text, OTHER], of="tokens")
    np.testing.assert_allclose(together[0].vectors, tokens.vectors, atol=1e-5)


def test_what_cannot_be_embedded_is_refused(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"of": "tokens", "layers": [3]}, r"layers: 3 is none of this model's; it has 0 \(the embedding\) to 2, or -3"),
        ({"layers": [-4]}, "layers: -4 is none"),
        ({"layers": [1, -2]}, "each once"),
        ({"layers": []}, "at least one layer"),
        ({"layers": [0], "combine": "max"}, "combine 'max': expected mean, concat, list"),
        ({"of": "sentences"}, "of 'sentences': expected tokens, words"),
        ({"of": "words", "word_vector": "last"}, "word_vector 'last': expected mean, first"),
        ({"of": "tokens", "segmenter": "jieba"}, "set of to words"),
        ({"of": "words", "dim": 8}, "embed of words: dim is for vectors of texts"),
        ({"of": "words", "pooling": "cls"}, "pooling is for vectors of texts"),
        ({"segmenter": "jieba"}, "segmenter is for vectors of words"),
        ({"dim": 33}, "dim 33: this model's vectors have 32 numbers"),
        ({"dim": 0}, "dim 0: "),
    ):
        with pytest.raises(UsageError, match=message):
            model.embed([TEXT], **options)
    with pytest.raises(DataError, match=r"text 2 of 2 has no tokens: ' '"):
        model.embed([TEXT, " "], of="words")
    monkeypatch.setattr(
        PartEmbedder, "_tables", lambda self, texts: [np.full((len(t.tokens), 3), np.nan) for t in texts]
    )
    with pytest.raises(NonFiniteError, match="text 1 of 1"):
        model.embed([TEXT], of="tokens")
