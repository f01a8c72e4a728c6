"""Where words begin goes with the tokens, from a store that was prepared with a segmenter to the masks of a batch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from pretune.draw import Draw
from pretune.objectives.mixture import build
from pretune.text.samples.sampler import Sampler
from pretune.text.samples.views.view import build_view
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenStore
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
    "runs": {"mlm": {"units": "ngram", "longest": 4}},
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
        rows, cursor = sampler.take(cursor)
        batch = objective.build_batch(rows, Draw(5), step)
        assert int(batch.tokens.max()) < tokenizer.vocabulary.size
        tensors = [batch.tokens, *(part for target in batch.targets.values() for part in target)]
        for tensor in tensors if batch.segments is None else [*tensors, batch.segments]:
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest()[:16] == PINNED[name]
