"""Public questions about paragraphs: how often words, vectors and both put the right paragraph first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pretune
from pretune.errors import MissingInputError
from pretune.search.build import set_ranking
from pretune.search.index import SearchIndex
from pretune.search.judgements import read_judged
from pretune.search.manifest import RankingConfig
from pretune.search.tuning import evaluate_index, tune_index

SETS = {
    "xquad-en": "reading/xquad/xquad.en.json",
    "xquad-zh": "reading/xquad/xquad.zh.json",
    "cmrc": "reading/cmrc2018/cmrc2018_dev.json",
}
MEASURES = ("nDCG@10", "R@1", "R@5", "RR@10")
Say = Callable[[str], None]


def measure_set(
    name: str, data: Path, model: Path, work: Path, say: Say, *, titles: bool = False, reranker: Path | None = None
) -> dict[str, Any]:
    """The scores of a set: words by every tokenization, then vectors, both, and what tuning chooses.

    Args:
        data: folder of public data.
        model: makes the vectors.
        work: folder of the indexes; what is there is used again, and a killed build goes on.
        titles: the titles of the articles are searched too.
        reranker: a model that orders the best paragraphs anew.
    """
    path = data / SETS[name]
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; set PRETUNE_DATA to the folder of the public data")
    judged = read_judged(path)
    rows: dict[str, Mapping[str, float]] = {}
    for tokenization in ("characters", "jieba", "bigrams"):
        index = _index(path, work / f"{name}-{tokenization}", None, tokenization, titles)
        rows[f"words, {tokenization}"] = evaluate_index(index, judged, measures=MEASURES)[0].scores
        say(_row(f"words, {tokenization}", rows[f"words, {tokenization}"]))
    folder = work / f"{name}-vectors"
    set_ranking(_index(path, folder, model, "bigrams", titles).folder, RankingConfig())  # an earlier run has tuned it
    index = _index(path, folder, model, "bigrams", titles)
    for row in evaluate_index(index, judged, measures=MEASURES)[1:]:
        rows[f"{row.name}, untuned"] = row.scores
        say(_row(f"{row.name}, untuned", row.scores))
    choice = tune_index(index, judged, reranker, measures=MEASURES)
    for row in choice.measured:
        rows[f"{row.name}, held-out half"] = row.scores
        say(_row(f"{row.name}, held-out half", row.scores))
    for reason in choice.reasons:
        say(reason)
    return {
        "set": name,
        "passages": index.passages,
        "queries": len(judged.texts),
        "titles": titles,
        "scores": {key: dict(value) for key, value in rows.items()},
        "ranking": choice.ranking.model_dump(mode="json", exclude={"measured"}),
        "reasons": list(choice.reasons),
    }


def _index(path: Path, folder: Path, model: Path | None, tokenization: str, titles: bool) -> SearchIndex:
    folder = folder.with_name(folder.name + ("-titles" if titles else ""))
    if (folder / "index.json").is_file():
        return pretune.open_index(folder, device="cpu", precision="fp32")
    options: dict[str, Any] = {} if titles else {"title": ""}
    return pretune.index(
        path,
        folder,
        model=model,
        size=0,
        tokenization=tokenization,
        device="cpu",
        precision="fp32",
        **options,
    )


def _row(name: str, scores: Mapping[str, float]) -> str:
    return f"{name:<28}" + "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
