"""Where words begin goes with the tokens, from a store that was prepared with a segmenter to the masks of a batch."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.objectives.mixture import build
from pretune.text.samples.rows import join
from pretune.text.samples.sampler import Sampler
from pretune.text.samples.views.view import build_view
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenSplit, TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXTS = [
    "自然语言处理很有意思。Language models 读2026年的新闻！",
    "我们在学习自然语言。\n\n处理 数据 很慢",
    "很𠀀奇怪的字，不是吗？it isn't",
]
LIST = ["自然", "自然语言", "语言", "处理", "有意思", "新闻", "我们", "学习", "数据", "奇怪"]
MIXTURES: dict[str, dict[str, Any]] = {
    "words": {"mlm": {"units": "word"}},
    "runs": {"mlm": {"units": "ngram", "max_span": 4}},
    "pairs": {"mlm": {"units": "word"}, "nsp": 1.0},
    "order": {"sop": 1.0, "mlm": {"units": "span"}},
    "structure": {"structure": 1.0, "mlm": {"units": "word"}},
    "memory": {"plm": {"memory": 8}, "mlm": {"units": "word"}},
}
# Of the tokens, segments and targets of 20 steps; written before words became a field of the row.
PINNED = {
    "words": "868eb4f32c5034e6",
    "runs": "402939a51ffdfa1b",
    "pairs": "fa127d2af768d777",
    "order": "8437f9025201bff8",
    "structure": "ad6651ca85a3e27d",
    "memory": "c0c149d35d231e96",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 5, TokenizerConfig(kind="wordpiece", vocab_size=400))


@pytest.fixture(scope="module")
def stores(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[TokenStore]:
    """One with words, and one of other documents that does not say where they begin."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in LIST), encoding="utf-8")
    stores = []
    for name, segmenter in (("words", str(folder / "words.txt")), ("plain", None)):
        texts = [f"{name}{n}{a}{b}" for n in range(20) for a in TEXTS for b in TEXTS]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        config = PrepareConfig(validation=0.0, segmenter=segmenter)
        stores.append(prepare(path, tokenizer, folder / name, config))
    return stores


@pytest.mark.parametrize("name", MIXTURES)
def test_batches_of_stores_with_and_without_words_are_what_they_were(
    name: str, tokenizer: Tokenizer, stores: list[TokenStore]
) -> None:
    objective = build(MIXTURES[name], tokenizer.vocabulary)
    width = 60 - objective.overhead
    views = [
        build_view(store.split("train"), objective.view, width, 0, objective.pack, objective.words) for store in stores
    ]
    sampler = Sampler(views, [2.0, 1.0], Draw(5), batch_samples=12)
    cursor, digest = sampler.start, hashlib.sha256()
    for step in range(20):
        rows, cursor = sampler.next_batch(cursor)
        batch = objective.build_batch(rows, Draw(5), step)
        assert int(batch.tokens.max()) < tokenizer.vocabulary.size
        tensors = [batch.tokens, *(part for target in batch.targets.values() for part in target)]
        for tensor in tensors if batch.segments is None else [*tensors, batch.segments]:
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest()[:16] == PINNED[name]


@pytest.mark.parametrize(("view", "pack"), [("stream", "stream"), ("stream", "document"), ("sentences", "stream")])
def test_rows_carry_the_flags_of_their_tokens(view: str, pack: str, stores: list[TokenStore]) -> None:
    split = stores[0].split("train")
    begins = split.read_word_starts(np.array([0]), np.array([split.token_count]))
    assert 0.2 < begins.mean() < 0.95
    rows = build_view(split, view, 40, pack=pack, words=True).read(np.arange(25), 0, 0, Draw(0))
    places = build_view(Places(split), view, 40, pack=pack).read(np.arange(25), 0, 0, Draw(0))
    for row, place in zip(rows, places, strict=True):
        assert row.word_flags is not None
        assert row.word_flags.tolist() == (~begins[place.tokens]).tolist()
    plain = build_view(split, view, 40, pack=pack).read(np.arange(5), 0, 0, Draw(0))
    assert all(row.word_flags is None for row in plain)


class Places:
    """A split whose tokens are their places."""

    has_words = False

    def __init__(self, split: TokenSplit) -> None:
        self.token_count, self.index = split.token_count, split.index
        self.document_offsets, self.sentence_offsets = split.document_offsets, split.sentence_offsets

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start, stop)

    def read_runs(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([np.arange(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True)])


@pytest.mark.parametrize("name", MIXTURES)
def test_every_layout_of_rows_keeps_flags_with_their_tokens(
    name: str, tokenizer: Tokenizer, stores: list[TokenStore]
) -> None:
    """Words of the list are flagged as the store does; the control: flags that are moved by one token are not."""
    objective = build(MIXTURES[name], tokenizer.vocabulary)
    width, split = 60 - objective.overhead, stores[0].split("train")
    view = build_view(split, objective.view, width, 0, objective.pack, words=True)
    batch = objective.prepare(view.read(np.arange(len(view)), 0, 0, Draw(1)), Draw(1))
    flags = batch.continues_word
    assert flags is not None
    assert not flags[tokenizer.vocabulary.special.take(batch.tokens.numpy())].any()
    text = "".join(piece if len(piece) == 1 else "?" for piece in map(tokenizer.token, batch.tokens.tolist()))
    words = {"自然语言": [False, True, True, True], "有意思": [False, True, True], "我们": [False, True]}
    places = [(match.start(), word) for word in words for match in re.finditer(word, text)]
    assert len(places) > 100

    def kept(flags: NDArray[np.bool_]) -> float:
        return float(np.mean([flags[place : place + len(word)].tolist() == words[word] for place, word in places]))

    assert kept(flags) == 1
    assert kept(np.roll(flags, 1)) < 0.1


def test_rows_without_flags_go_by_the_vocabulary(tokenizer: Tokenizer, stores: list[TokenStore]) -> None:
    objective = build(MIXTURES["words"], tokenizer.vocabulary)
    rows = [
        build_view(store.split("train"), "stream", 40, pack="document", words=True).read(np.arange(3), n, 0, Draw(0))
        for n, store in enumerate(stores)
    ]
    mixed = objective.prepare(join(rows), Draw(0)).continues_word
    known = objective.prepare(rows[0], Draw(0)).continues_word
    assert mixed is not None
    assert known is not None
    assert mixed[: len(known)].tolist() == known.tolist()
    plain = objective.prepare(rows[1], Draw(0))
    assert plain.continues_word is None
    assert mixed[len(known) :].tolist() == tokenizer.vocabulary.continuation.take(plain.tokens.numpy()).tolist()
