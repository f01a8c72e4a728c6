"""Mines hard negatives for pairs: texts that a model finds near to a text, and that do not belong to it.

    pairs + further texts -> vectors -> the nearest texts of each first one
        - its partners, and what is nearly the same as one of them
        - what is as near as its partner: perhaps it belongs to it too, and nobody said so
        -> the first, or some drawn by key, and texts drawn from all -> negatives of the pair

Source: de Souza P. Moreira et al. 2024, NV-Retriever (arXiv 2407.15831), for limits by the partner's own score, of
which 95 % (TopK-PercPos) was the best; Xiong et al. 2020, ANCE (arXiv 2007.00808), for negatives by the model itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pretune.config import Config
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.search.nearest import nearest
from pretune.wording import counted, percent

Vectors = NDArray[np.float32]
EmbedTexts = Callable[[Sequence[str]], Vectors]


class MiningConfig(Config):
    """Which negatives are taken.

    Attributes:
        negatives: of each pair at most, beside the random ones.
        skip: number of the nearest texts that are left out, as they may belong to the text unsaid.
        depth: number of the nearest texts that are looked at.
        ratio: a negative's cosine is at most this fraction of that of the pair.
        margin: and smaller than that of the pair by so much.
        max_score: and no larger than this.
        duplicate: a text whose cosine with a partner is as large as this is the same text, written otherwise.
        sample: the nearest ones (`top`), or so many of those that may be (`random`), drawn by key.
        random: texts drawn from all others, beside hard negatives: a reranker that sees only hard ones gets worse.
        seed: of what is drawn.
    """

    negatives: int = Field(default=5, ge=0, le=1000)
    skip: int = Field(default=0, ge=0)
    depth: int = Field(default=100, ge=1)
    ratio: float | None = Field(default=0.95, gt=0, le=1)
    margin: float | None = Field(default=None, ge=0, le=2)
    max_score: float | None = Field(default=None, ge=-1, le=1)
    duplicate: float = Field(default=0.98, gt=0, le=1.01)
    sample: Literal["top", "random"] = "top"
    random: int = Field(default=0, ge=0, le=1000)
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_some(self) -> MiningConfig:
        if self.skip >= self.depth:
            raise ValueError(f"skip {self.skip} leaves nothing of depth {self.depth}; give a larger depth")
        if not self.negatives + self.random:
            raise ValueError("negatives 0 and random 0 mine nothing; give one of them")
        return self


@dataclass(frozen=True)
class MinedPair:
    """A pair with its negatives.

    Attributes:
        number: of the pair.
        negatives: hard ones, nearest first, then random ones; perhaps none.
        cosines: of the first text with the second one, and with each negative.
    """

    number: int
    negatives: list[str]
    cosines: list[float]


@dataclass
class MiningStats:
    """Counts what became of pairs and of the texts near to them.

    Attributes:
        pairs: all.
        texts: different ones that may be negatives.
        found: hard negatives.
        too_near: texts that the limits left out.
        duplicates: texts that are nearly the same as a partner.
        without: pairs that have no negative at all.
        short: pairs that have fewer hard negatives than asked for.
    """

    pairs: int = 0
    texts: int = 0
    found: int = 0
    too_near: int = 0
    duplicates: int = 0
    without: int = 0
    short: int = 0
    cosines: list[float] = field(default_factory=list)

    def summary(self) -> str:
        """The counts in a sentence."""
        mean = f", mean cosine {np.mean(self.cosines):.3f}" if self.cosines else ""
        return (
            f"{counted(self.found, 'hard negative')}{mean}, of {counted(self.texts, 'text')} for "
            f"{counted(self.pairs, 'pair')}; left out: {counted(self.too_near, 'text')} as near as the partner, "
            f"{counted(self.duplicates, 'near-duplicate')} of it; {counted(self.short, 'pair')} with fewer than asked "
            f"for, {self.without:,} with none ({percent(self.without / max(1, self.pairs))})"
        )


def mine_negatives(
    pairs: Sequence[tuple[str, str]],
    corpus: Sequence[str],
    embed: EmbedTexts,
    config: MiningConfig,
    stats: MiningStats | None = None,
    embed_queries: EmbedTexts | None = None,
) -> list[MinedPair]:
    """The negatives of each pair, in the order of the pairs.

    Args:
        pairs: each first text has all second texts that stand beside it for partners.
        corpus: further texts that may be negatives.
        embed: gives vectors of texts.
        stats: counts.
        embed_queries: of first texts, where these are embedded otherwise.

    Raises:
        DataError: no pair, or only one text that could be a negative; vectors that are not finite.
    """
    stats = MiningStats() if stats is None else stats
    if not pairs:
        raise DataError("no pairs: give some to find negatives for")
    texts = list(dict.fromkeys([*(second for _, second in pairs), *corpus]))
    firsts = list(dict.fromkeys(first for first, _ in pairs))
    if len(texts) < 2:
        raise DataError(f"all pairs have the same second text {texts[0][:40]!r}; name further texts with --corpus")
    number = {text: n for n, text in enumerate(texts)}
    partners: dict[str, set[int]] = defaultdict(set)
    for first, second in pairs:
        partners[first].add(number[second])
    table, queries = _unit(embed(texts)), _unit((embed_queries or embed)(firsts))
    most = max(map(len, partners.values()))
    near, cosines = nearest(queries, table, config.depth + most + 1)
    row_of = {text: n for n, text in enumerate(firsts)}
    stats.pairs, stats.texts = len(pairs), len(texts)
    out: list[MinedPair] = []
    for n, (first, second) in enumerate(pairs):
        own, row = sorted(partners[first]), row_of[first]
        pair_cosine = float(queries[row] @ table[number[second]])
        chosen = _hard(near[row], cosines[row], pair_cosine, own, number.get(first), table, config, stats, n)
        drawn = _drawn(len(texts), {*own, *chosen.tolist(), number.get(first, -1)}, config, n)
        negatives = [*chosen.tolist(), *drawn]
        stats.found += len(chosen)
        stats.short += len(chosen) < config.negatives
        stats.without += not negatives
        scores = [float(score) for score in table[negatives] @ queries[row]] if negatives else []
        stats.cosines += scores[: len(chosen)]
        out.append(MinedPair(n, [texts[each] for each in negatives], [pair_cosine, *scores]))
    return out


def _hard(
    near: NDArray[np.int64],
    cosines: Vectors,
    pair_cosine: float,
    partners: Sequence[int],
    itself: int | None,
    table: Vectors,
    config: MiningConfig,
    stats: MiningStats,
    pair: int,
) -> NDArray[np.int64]:
    """The hard negatives of a pair among the texts that are nearest to its first one, nearest first."""
    is_own = np.isin(near, partners) | (near == (-1 if itself is None else itself))
    near, cosines = near[~is_own][: config.depth], cosines[~is_own][: config.depth]
    near, cosines = near[config.skip :], cosines[config.skip :]
    same = (table[near] @ table[list(partners)].T >= config.duplicate).any(axis=1)
    limits = [1.01 if config.max_score is None else config.max_score]
    if config.ratio is not None:
        limits.append(pair_cosine * config.ratio if pair_cosine > 0 else pair_cosine)
    if config.margin is not None:
        limits.append(pair_cosine - config.margin)
    allowed = ~same & (cosines <= min(limits))
    stats.duplicates += int(same.sum())
    stats.too_near += int((~same & ~allowed).sum())
    candidates = near[allowed]
    if config.sample == "top" or len(candidates) <= config.negatives:
        return candidates[: config.negatives]
    order = np.argsort(Draw(config.seed).at("mine", pair).bits(candidates), kind="stable")[: config.negatives]
    return candidates[np.sort(order)]


def _drawn(count: int, taken: set[int], config: MiningConfig, pair: int) -> list[int]:
    """Texts drawn from all that are not taken."""
    free = count - sum(0 <= each < count for each in taken)
    wanted, draw = min(config.random, free), Draw(config.seed).at("random", pair)
    if 4 * wanted >= free:  # drawn one by one, most would be taken already
        rest = np.setdiff1d(np.arange(count), list(taken))
        return [int(each) for each in rest[np.argsort(draw.bits(rest), kind="stable")[:wanted]]]
    out: dict[int, None] = {}
    attempt = 0
    while len(out) < wanted:
        each = int(draw.below(np.array([attempt]), count)[0])
        attempt += 1
        if each not in taken:
            out[each] = None
    return list(out)


def _unit(vectors: Vectors) -> Vectors:
    """Vectors at length 1; zeros stay as they are.

    Raises:
        DataError: one is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(f"the vector of text {bad[0] + 1} of {len(vectors)} is not finite; check the model")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)
