"""Measures ways of ranking on judged queries, and chooses one for an index.

    queries, split by their ids -> words, vectors, every fusion and weight on one part -> the best
                                -> words, vectors, that fusion, and a reranker on the held-out part -> what is used

Fusion is used where it is not below its better part on the held-out queries, a reranker where it is above what it
reorders by more than chance (`evaluate/rerank.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretune.errors import DataError, UsageError
from pretune.evaluate.rerank import HeldOutQuery, Reranker, check_reranking
from pretune.find import variants
from pretune.metrics.ranking import MEASURES, score_each
from pretune.model import Model
from pretune.models.metadata import VariantRecord
from pretune.search.build import set_ranking
from pretune.search.fuse import Ranked, fusion_of
from pretune.search.index import SearchIndex
from pretune.search.judgements import Judged
from pretune.search.manifest import RankingConfig

MAIN = "nDCG@10"
WEIGHTS = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9)


@dataclass(frozen=True)
class Measured:
    """Scores of one way of ranking.

    Attributes:
        name: words, vectors, fused, or one of them with "+reranker".
        scores: means over the queries.
        each: the scores of each query.
    """

    name: str
    scores: Mapping[str, float]
    each: Mapping[str, Mapping[str, float]] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What was chosen for an index, and what it was chosen by.

    Attributes:
        ranking: as it is used from now on.
        measured: on the held-out queries.
        tuning, held_out: how many queries chose the weight, and how many measured.
        reasons: why, a sentence each.
    """

    ranking: RankingConfig
    measured: Sequence[Measured]
    tuning: int
    held_out: int
    reasons: Sequence[str]


class Judge:
    """Measures rankings of one index on judged queries; what words and vectors find is searched once.

    Args:
        index: that is searched.
        judged: queries with what is relevant to them.
        measures: as ir-measures names them.

    Raises:
        DataError: a relevant document is not in the index.
    """

    def __init__(self, index: SearchIndex, judged: Judged, measures: Sequence[str] = MEASURES) -> None:
        judged.check(index.stored.document_numbers())
        self._index, self._judged = index, judged
        self._measures = tuple(dict.fromkeys([MAIN, *measures]))
        self._ids = list(judged.texts)
        depth = index.ranking.depth
        allowed = ~index.stored.deleted if index.stored.deleted.any() else None
        self._words = {query: index.words.search(judged.texts[query], depth, allowed) for query in self._ids}
        self._vectors: dict[str, Ranked] = {}
        if index.nearest is not None:
            vectors = index.encoder.queries([judged.texts[query] for query in self._ids])
            for query, vector in zip(self._ids, vectors, strict=True):
                self._vectors[query] = index.nearest.search(vector, depth, allowed)

    def modes(self) -> list[str]:
        """The ways of ranking that the index allows."""
        return ["words", "vectors", "fused"] if self._vectors else ["words"]

    def measure(
        self, ranking: RankingConfig, queries: Sequence[str] | None = None, reranker: Reranker | None = None
    ) -> Measured:
        """The scores of a way of ranking.

        Args:
            queries: ids; None for all.
            reranker: orders the best passages anew.
        """
        rankings = {}
        for query in self._ids if queries is None else queries:
            ranked = self._ranked(query, ranking)
            if reranker is not None:
                ranked = self._index.reorder(self._judged.texts[query], ranked, reranker, ranking.reranked)
            rows, _ = self._index.first_of_documents(ranked)
            rankings[query] = [self._index.document_id(row) for row in rows.tolist()]
        each = score_each(rankings, {query: self._judged.grades[query] for query in rankings}, self._measures)
        means = {name: sum(scores[name] for scores in each.values()) / len(each) for name in self._measures}
        return Measured(ranking.mode + ("+reranker" if reranker is not None else ""), means, each)

    def _ranked(self, query: str, ranking: RankingConfig) -> Ranked:
        if ranking.mode == "words":
            return self._words[query]
        if ranking.mode == "vectors":
            return self._vectors[query]
        fusion = self._index.fusion(ranking)
        return fusion.fuse(self._words[query], self._vectors[query], ranking.weight, ranking.depth)

    def candidates(self, ranking: RankingConfig, queries: Sequence[str]) -> list[HeldOutQuery]:
        """What a reranker orders: the best passage of each document, as many as the ranking says."""
        out = []
        for query in queries:
            rows, _ = self._index.first_of_documents(self._ranked(query, ranking))
            rows = rows[: ranking.reranked]
            texts = [(self._index.document_id(row), self._index.stored.passage(row).searched) for row in rows.tolist()]
            out.append(HeldOutQuery(query, self._judged.texts[query], texts, self._judged.grades[query]))
        return out

    def split(self, held_out: float) -> tuple[list[str], list[str]]:
        """The queries that choose, and those that measure: by a hash of their ids, the same on every machine.

        Raises:
            UsageError: a share that is not between 0 and 1.
            DataError: too few queries.
        """
        if not 0 < held_out < 1:
            raise UsageError(f"held-out share {held_out}: expected a number between 0 and 1")
        order = sorted(self._ids, key=lambda query: hashlib.sha256(query.encode()).digest())
        size = round(len(order) * held_out)
        if not 0 < size < len(order):
            raise DataError(f"{len(order)} judged queries cannot be split; give at least two, better some hundred")
        return order[size:], order[:size]


def evaluate_index(
    index: SearchIndex, judged: Judged, reranker: Model | Path | str | None = None, measures: Sequence[str] = MEASURES
) -> list[Measured]:
    """The scores of words, vectors and both joined as the index says, on all queries; with a reranker too, if given."""
    judge = Judge(index, judged, measures)
    rows = [judge.measure(index.ranking.model_copy(update={"mode": mode})) for mode in judge.modes()]
    if reranker is not None:
        rows.append(judge.measure(index.ranking, reranker=index.reranker(reranker)))
    return rows


def tune_index(
    index: SearchIndex,
    judged: Judged,
    reranker: Path | str | None = None,
    held_out: float = 0.5,
    measures: Sequence[str] = MEASURES,
    fusions: Sequence[str] = (),
) -> Choice:
    """Chooses how an index ranks, and records it there.

    Args:
        reranker: folder of a model, which is used if it helps on the held-out queries.
        held_out: share of the queries that measure; the others choose fusion and weight.
        fusions: of `search/fusion/` among which is chosen, or files of one's own; all by default.
    """
    judge = Judge(index, judged, measures)
    chooses, measures_on = judge.split(held_out)
    plain = index.ranking.model_copy(update={"reranker": None, "measured": {}})
    rows = {}
    for mode in judge.modes():
        way = (
            _best_fusion(judge, plain, chooses, fusions) if mode == "fused" else plain.model_copy(update={"mode": mode})
        )
        rows[mode] = (way, judge.measure(way, measures_on))
    chosen, reasons = _choose_mode(rows)
    measured = [row for _, row in rows.values()]
    if reranker is not None:
        check = check_reranking(index.reranker(reranker), judge.candidates(chosen, measures_on), MAIN)
        measured.append(Measured(f"{chosen.mode}+reranker", check.reranked))
        reasons.append(check.describe())
        chosen = chosen.model_copy(update={"reranker": str(reranker) if check.helps else None})
    scores = {row.name: dict(row.scores) for row in measured}
    chosen = chosen.model_copy(update={"measured": scores})
    set_ranking(index.folder, chosen)
    return Choice(chosen, measured, len(chooses), len(measures_on), reasons)


def _best_fusion(judge: Judge, plain: RankingConfig, queries: Sequence[str], names: Sequence[str]) -> RankingConfig:
    """The fusion and the weight with the best score; of equal ones scores before ranks, and both lists alike."""
    best: tuple[float, RankingConfig] | None = None
    for name in names or sorted(variants("search.fusion"), reverse=True):
        fusion_of(name)
        for weight in WEIGHTS:
            update = {"mode": "fused", "fusion": VariantRecord.of(name), "weight": weight}
            way = plain.model_copy(update=update)
            score = judge.measure(way, queries).scores[MAIN]
            if best is None or score > best[0]:
                best = score, way
    assert best is not None  # there are fusions
    return best[1]


def _choose_mode(rows: Mapping[str, tuple[RankingConfig, Measured]]) -> tuple[RankingConfig, list[str]]:
    """Fusion, unless its better part is above it."""
    scores = {name: row.scores[MAIN] for name, (_, row) in rows.items()}
    if "fused" not in scores:
        return rows["words"][0], ["the index has words alone"]
    part = max(("words", "vectors"), key=lambda name: scores[name])
    if scores["fused"] >= scores[part]:
        way = rows["fused"][0]
        what = f"{way.fusion.name}, weight of the vectors {way.weight}"
        return way, [f"fused ({what}) is not below {part} alone: {scores['fused']:.4f} and {scores[part]:.4f}"]
    return rows[part][0], [f"fused is below {part} alone: {scores['fused']:.4f} and {scores[part]:.4f}"]
