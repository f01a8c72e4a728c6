"""Extends a tokenizer by words of a domain; every old id keeps its token.

    texts --words of the pipeline, counted--> candidates --tokens that each saves--> the best --> new ids at the end

A candidate is a word as the tokenizer's own pipeline cuts it, or as a segmenter does where the pipeline cuts every
Chinese character apart. Its score is how many tokens the text would have less: its count times the tokens that it takes
now, less one. How a word enters depends on the model: into the vocabulary of WordPiece, which takes the longest match;
into that of BPE, with `ignore_merges`, so that a word of the vocabulary is one token; into Unigram with a score that
beats its subwords; as an added token where the pipeline would cut it, or the model never see it alone.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import tokenizers
from pydantic import Field
from tokenizers import AddedToken

from pretune.config import Config
from pretune.errors import DataError, UsageError
from pretune.text.tokenizer.library import library_errors
from pretune.text.tokenizer.segmenter import HAN, WordFinder
from pretune.text.tokenizer.tokenizer import Tokenizer, encode_all

_BATCH = 4096  # candidates that are encoded together
_LETTERS = re.compile(r"▁?[^\W\d_]+")
_MAX_WORDS = 1 << 22  # different words that are counted


class ExtendConfig(Config):
    """Which words are taken.

    Attributes:
        tokens: maximal number of new tokens.
        min_count: how often a word must occur at least.
        max_length: maximal number of characters of a word.
        segmenter: finds Chinese words, as for `pretune prepare`.
    """

    tokens: int = Field(default=1000, ge=1, le=1 << 20)
    min_count: int = Field(default=5, ge=1)
    max_length: int = Field(default=24, ge=2)
    segmenter: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A word that could become a token.

    Attributes:
        word: as the model sees it, with what stands for the space before it; as text, for an added token.
        count: in the text.
        subwords: ids that it takes now.
        added: it enters as an added token.
    """

    word: str
    count: int
    subwords: tuple[int, ...]
    added: bool

    @property
    def saved(self) -> int:
        """Tokens that the text has less with it."""
        return self.count * (len(self.subwords) - 1)


@dataclass(frozen=True)
class Extended:
    """A tokenizer with more words.

    Attributes:
        tokenizer: the new one.
        words: for each new id the word it stands for, with its score and its old ids.
    """

    tokenizer: Tokenizer
    words: dict[int, Candidate]


def extend_tokenizer(tokenizer: Tokenizer, texts: Iterable[str], config: ExtendConfig | None = None) -> Extended:
    """Add the words of a domain that save the most tokens.

    Raises:
        DataError: no word that would save a token.
    """
    config = config or ExtendConfig()
    candidates = sorted(_candidates(tokenizer, texts, config), key=lambda c: (-c.saved, c.word))[: config.tokens]
    if not candidates:
        raise DataError(
            f"no word occurs {config.min_count} times and takes several tokens: the tokenizer knows this text; "
            "give more text, or lower min_count"
        )
    backend = _with_words(tokenizer, candidates)
    new = Tokenizer(backend, tokenizer.settings)
    words = {}
    for candidate in candidates:
        id = backend.token_to_id(candidate.word)
        assert id is not None  # it was added
        words[id] = candidate
    return Extended(new, words)


def _candidates(tokenizer: Tokenizer, texts: Iterable[str], config: ExtendConfig) -> Iterator[Candidate]:
    counts, chinese = _count(tokenizer, texts, config)
    known = {subword for subword in tokenizer.subwords if subword is not None}
    for words, added in ((counts, False), (chinese, not _finds_within(tokenizer))):
        wanted = iter(w for w, n in words.items() if n >= config.min_count and w not in known)
        while batch := list(islice(wanted, _BATCH)):
            for word, ids in zip(batch, _subwords(tokenizer, batch, added), strict=True):
                if len(ids) > 1:
                    yield Candidate(word, words[word], tuple(ids), added)


def _count(tokenizer: Tokenizer, texts: Iterable[str], config: ExtendConfig) -> tuple[Counter[str], Counter[str]]:
    """Words of the pipeline, and Chinese words of the segmenter, which the pipeline would cut or never see alone."""
    plain = tokenizer.plain
    finder = WordFinder(config.segmenter) if config.segmenter else None
    own: Counter[str] = Counter()
    chinese: Counter[str] = Counter()
    for text in texts:
        with library_errors("the tokenizer cannot cut a text into words"):
            normal = text if plain.normalizer is None else plain.normalizer.normalize_str(text)
            cut = None if plain.pre_tokenizer is None else plain.pre_tokenizer.pre_tokenize_str(normal)
        subwords = [normal] if cut is None else [subword for subword, _ in cut]
        if _finds_within(tokenizer):
            subwords = [word for subword in subwords for word in _LETTERS.findall(subword)]
        own.update(word for word in subwords if _fits(word, config) and not (finder and HAN.search(word)))
        if finder is not None:
            words = (text[a:b].strip() for a, b in pairwise([*finder(text), len(text)]))
            chinese.update(word for word in words if HAN.search(word) and _fits(word, config))
        for counter in (own, chinese):
            if len(counter) > _MAX_WORDS:  # the rare ones of so many are not wanted
                for word in [word for word, n in counter.items() if n == 1]:
                    del counter[word]
    return own, chinese


def _finds_within(tokenizer: Tokenizer) -> bool:
    """Whether the model finds its subwords anywhere in what the pipeline leaves whole, as Unigram does."""
    return isinstance(tokenizer.plain.model, tokenizers.models.Unigram)


def _fits(word: str, config: ExtendConfig) -> bool:
    """Letters, after what stands for a space."""
    bare = word.lstrip("Ġ▁ ")
    return 1 < len(bare) <= config.max_length and bare.isalpha()


def _subwords(tokenizer: Tokenizer, words: Sequence[str], added: bool) -> list[list[int]]:
    """The ids that words take now."""
    if added:
        return [encoding.ids for encoding in encode_all(tokenizer.plain, words)]
    model = tokenizer.plain.model
    with library_errors("the tokenizer cannot encode a word"):
        return [[token.id for token in model.tokenize(word)] for word in words]


def _with_words(tokenizer: Tokenizer, candidates: Sequence[Candidate]) -> tokenizers.Tokenizer:
    """The backend with new ids behind the last one.

    Raises:
        UsageError: a kind of model that has no such words.
    """
    layout = copy.deepcopy(tokenizer.layout)
    model, first = layout["model"], len(tokenizer.subwords)
    inside = [c for c in candidates if not c.added]
    if model["type"] in ("WordPiece", "BPE", "WordLevel"):
        model["vocab"] |= {c.word: first + n for n, c in enumerate(inside)}
        if model["type"] == "BPE":
            model["ignore_merges"] = True
    elif model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        # Its ids are places: tokens behind the vocabulary take theirs, with a score that no text prefers.
        behind = enumerate(tokenizer.subwords[len(scores) :], len(scores))
        model["vocab"] += [[subword or f"<{n}>", min(scores) - 100] for n, subword in behind]
        model["vocab"] += [[c.word, sum(scores[i] for i in c.subwords) / len(c.subwords)] for c in inside]
    else:
        raise UsageError(f"a tokenizer of kind {model['type']} cannot be extended")
    backend = tokenizers.Tokenizer.from_str(json.dumps(layout))
    backend.add_tokens([AddedToken(c.word, normalized=True) for c in candidates if c.added])
    return backend
