"""One run in a process of its own: `python -m benchmarks.crosslingual.one ORDER.json` prints its scores.

pairs -> one tokenizer of both languages -> BERT from scratch, contrast in all directions -> vectors
      -> which Chinese sentence is nearest to each English one, and back
      -> a linear classifier on English reviews, scored on Chinese ones
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crosslingual.sets import Record, reviews, tatoeba

_TARGETS = ("chnsenticorp", "waimai")


@dataclass(frozen=True)
class Order:
    """What is run.

    Attributes:
        seed: of the run.
        folder: where the tokenizer and the model stay.
        recipe: fields over those of `recipes/translations.toml`.
        reviews: score classifiers across languages too.
    """

    seed: int
    folder: str
    recipe: dict[str, Any]
    reviews: bool = True


def run(order: Order) -> dict[str, Any]:
    """Trains, and scores the held-out translations and reviews."""
    import pretune

    folder = Path(order.folder)
    pairs, start = tatoeba(), time.perf_counter()
    model_folder = folder / f"seed-{order.seed}"
    if not (model_folder / "model.safetensors").is_file():
        tokenizer = _tokenizer(folder, pairs.train, int(order.recipe.get("vocabulary", 12000)))
        fields = {name: value for name, value in order.recipe.items() if name != "vocabulary"}
        pretune.finetune(
            _recipe(),
            train=list(pairs.train),
            data={"tokenizer": str(tokenizer)},
            output=str(model_folder),
            seed=order.seed,
            **fields,
        )
    seconds = time.perf_counter() - start
    model = pretune.load(model_folder)
    first, second = (
        model.embed([pair[side] for pair in pairs.test], normalize=True).astype(np.float64)
        for side in ("text", "second")
    )
    scores = retrieval(first, second, [pair["second"] for pair in pairs.test], [pair["text"] for pair in pairs.test])
    if order.reviews:
        scores |= transfer(model_folder, folder / f"classifier-{order.seed}")
    return {"scores": scores, "train_seconds": seconds, "train": len(pairs.train), "test": len(pairs.test)}


def retrieval(
    first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], seconds: Sequence[str], firsts: Sequence[str]
) -> dict[str, float]:
    """The fraction of sentences whose nearest one of the other language is their translation; equal texts are one.

    Shape:
        first, second: (n, width) of length 1
    """
    cosines = first @ second.T
    forward, back = cosines.argmax(axis=1).tolist(), cosines.argmax(axis=0).tolist()
    return {
        "en->zh": float(np.mean([seconds[m] == seconds[n] for n, m in enumerate(forward)])),
        "zh->en": float(np.mean([firsts[m] == firsts[n] for n, m in enumerate(back)])),
    }


def transfer(model: Path, output: Path) -> dict[str, float]:
    """The accuracy on Chinese reviews of a classifier that has seen the labels of English ones alone."""
    import pretune

    classifier = pretune.finetune(
        train=reviews("sst2"),
        model=str(model),
        task={"classification": {"head": "mean", "fit_head": True}},
        tune="frozen",
        output=str(output),
        track={"report": False, "progress": "quiet"},
        resume=False,
    )
    return {name: float(classifier.evaluate(reviews(name))["accuracy"]) for name in _TARGETS}


def _tokenizer(folder: Path, pairs: Sequence[Record], size: int) -> Path:
    """One vocabulary of both languages, made of the training pairs."""
    from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

    path = folder / f"tokenizer-{size}"
    if not (path / "tokenizer.json").is_file():
        texts = [text for pair in pairs for text in (pair["text"], pair["second"])]
        path.mkdir(parents=True, exist_ok=True)
        train_tokenizer(texts, TokenizerConfig(vocab_size=size, split_chinese=True, lowercase=True)).write(path)
    return path


def _recipe() -> Path:
    return Path(__file__).parents[2] / "recipes" / "translations.toml"


if __name__ == "__main__":
    print(json.dumps(run(Order(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))
