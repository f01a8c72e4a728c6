"""Reads token stores for a run: the views of each objective, what is held out, and statistics of the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pretune.errors import DataError, UsageError
from pretune.objectives.objective import Objective
from pretune.objectives.sentence_pair import SentencePair
from pretune.objectives.source_target import SourceTarget
from pretune.text.samples.views.pairs import TooFewDocumentsError
from pretune.text.samples.views.view import View, build_view
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import STORE_REMEDY, describe_unknown
from pretune.train.recipe import Recipe
from pretune.wording import counted, percent

_LEFT_OUT = {"duplicate": "duplicates", "empty": "empty", "excluded": "excluded", "quarantined": "quarantined"}
_SAMPLE_TOKENS = 2000
_ENTROPY_TOKENS = 1 << 24  # tokens from which the unigram entropy is taken


class StoreData:
    """The token stores of a recipe.

    Args:
        verify: compare every byte of the stores with their manifests, if the recipe says so too.

    Attributes:
        notes: what the user should know.

    Raises:
        UsageError: the recipe names no store.
        MissingInputError: a store that is not there.
        DataError: a damaged store.
    """

    def __init__(self, recipe: Recipe, verify: bool = True) -> None:
        if not recipe.data.stores:
            raise UsageError(
                "recipe: field 'data.stores' is missing; make a store with `pretune prepare`, and name it with --stores"
            )
        self.stores = [TokenStore.open(path) for path in recipe.data.stores]
        self.notes: list[str] = []
        self._recipe = recipe
        if verify and recipe.data.verify:
            for store in self.stores:
                store.verify()

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Compare the tokenizer of each store with that of the run.

        Raises:
            DataError: a store was prepared with another tokenizer.
        """
        for store in self.stores:
            store.check_tokenizer(tokenizer)

    def views(self, objective: Objective) -> list[View]:
        """The training view of each store, as an objective reads it.

        Raises:
            UsageError: sequences that grow during the run, for an objective that cannot have them cut.
            DataError: a store without a window; an objective on pairs of sentences, and no window with two.
        """
        warmup = self._recipe.data.length_warmup
        if warmup and (objective.view != "stream" or isinstance(objective, SourceTarget)):
            raise UsageError(
                f"recipe: field 'data.length_warmup' = {warmup}: it cuts sequences, and this objective on "
                f"{objective.view} decides for whole ones or pairs them with a source; leave it out, or name "
                "objectives on plain text alone"
            )
        views = [self._view(store, "train", objective) for store in self.stores]
        for store, view in zip(self.stores, views, strict=True):
            if not len(view):
                split = store.split("train")
                documents = counted(split.document_count, "document")
                raise DataError(
                    f"{store.path}: gives no window of {objective.view!r}: {documents} of "
                    f"{counted(split.token_count, 'token')} in all, none of them long enough; prepare a store of more "
                    "text, or use data.pack = 'stream'"
                )
        self._check_pairs(objective, views)
        return views

    def _check_pairs(self, objective: Objective, views: Sequence[View]) -> None:
        """Refuse an objective on pairs of which none can be made, and say how many windows give none.

        Raises:
            DataError: every window is of one sentence.
        """
        names = " and ".join(part.name for part in objective.modules() if isinstance(part, SentencePair))
        if not names:
            return
        stats = [view.data_stats() for view in views]
        single, samples = (sum(each[name] for each in stats) for name in ("single", "samples"))
        remedy = "let a document be more than a line (prepare with --corpus.documents blank-line or file)"
        if single == samples:
            raise DataError(
                f"data.stores: none of the {samples:,} windows has two sentences, so that {names} can make "
                f"no pair; {remedy}, raise data.length, or drop {names}"
            )
        if single:
            counts = f"{single:,} of {samples:,} windows ({single / samples:.0%})"
            self.notes.append(f"{counts} are of one sentence and give no pair for {names}; {remedy}")

    def weights(self, views: Sequence[View]) -> list[float]:
        """How often each store is drawn from: as the recipe says, or by its samples and the temperature."""
        data = self._recipe.data
        return list(data.weights) or [len(view) ** (1 / data.temperature) for view in views]

    def held_out(self, objective: Objective) -> list[View]:
        """The validation view of each store that has one; `notes` says which are left out."""
        return list(self._validation_views(objective)) if self._recipe.evaluation.samples != 0 else []

    def _validation_views(self, objective: Objective) -> Iterator[View]:
        for store in self.stores:
            if not store.split("validation").document_count:
                continue
            try:
                view = self._view(store, "validation", objective)
            except TooFewDocumentsError as error:
                self.notes.append(f"{store.path}: its validation text is left out: {error}")
                continue
            if len(view):
                yield view

    def _view(self, store: TokenStore, split: str, objective: Objective) -> View:
        data = self._recipe.data
        width = data.length - objective.overhead
        pack = data.pack or objective.pack
        return build_view(store.split(split), objective.view, width, objective.lookahead, pack, objective.words)

    def fingerprints(self) -> dict[str, str]:
        """The content of each store, by field of the recipe."""
        return {f"data.stores[{n}]": store.fingerprint for n, store in enumerate(self.stores)}

    def sample_text(self, tokenizer: Tokenizer) -> str:
        """A little of the training text, which tells its language."""
        splits = [store.split("train") for store in self.stores]
        return "\n".join(
            tokenizer.decode(split.read(0, min(split.token_count, _SAMPLE_TOKENS)).tolist()) for split in splits
        )

    def statistics(self) -> dict[str, Any]:
        """Documents and tokens of each store, and its domains."""
        return {
            "stores": {str(store.path): store.manifest.data_stats | _split_statistics(store) for store in self.stores},
            "domains": {str(store.path): store.manifest.domains for store in self.stores},
        }

    def losses(self, windows: Mapping[str, Mapping[str, int]]) -> list[str]:
        """What of the text is not trained on, in a line; nothing where all of it is.

        Args:
            windows: what `window_statistics` gave for each objective.
        """
        parts: list[str] = []
        for store in self.stores:
            stats = store.manifest.data_stats
            lost = [f"{stats[name]:,} {word}" for name, word in _LEFT_OUT.items() if stats.get(name)]
            if lost:
                parts.append(f"{', '.join(lost)} of {counted(stats['documents'], 'document')} of {store.path}")
        for name, counts in windows.items():
            if cut := counts.get("cut", 0):
                tokens, path = counts["tokens"], name.partition(":")[2]
                share = percent(cut / tokens)
                parts.append(f"{cut:,} of {counted(tokens, 'token')} of {path} ({share}), cut to windows")
        return ([f"left out: {'; '.join(parts)}"] if parts else []) + self._unknown()

    def _unknown(self) -> list[str]:
        """Which part of the training text the tokenizer does not know; nothing where it knows all of it."""
        manifests = [(store.path, store.split("train").manifest) for store in self.stores]
        notes = [
            describe_unknown(split.unknown, split.tokens, str(path), "", STORE_REMEDY) for path, split in manifests
        ]
        return [note for note in notes if note is not None]

    def window_statistics(self, objective: Objective, views: Sequence[View]) -> dict[str, dict[str, int]]:
        """Tokens used, cut and displaced in the views of one objective."""
        stores = zip(self.stores, views, strict=True)
        return {f"{objective.view}:{store.path}": view.data_stats() for store, view in stores}


def _split_statistics(store: TokenStore) -> dict[str, dict[str, int]]:
    """Documents and tokens of each split of a store, and how many tokens stand for text outside the vocabulary."""
    return {
        name: {"documents": split.documents, "tokens": split.tokens, "tokens_unknown": split.unknown}
        for name, split in store.manifest.splits.items()
    }


def unigram_entropy(stores: Sequence[TokenStore]) -> float:
    """Entropy of the tokens' frequencies in the training data, in nats: the loss of a model that knows no context."""
    counts = np.zeros(max(store.vocab_size for store in stores), np.int64)
    for store in stores:
        split = store.split("train")
        counts += np.bincount(split.read(0, min(split.token_count, _ENTROPY_TOKENS)), minlength=len(counts))
    frequency = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(frequency * np.log(frequency)).sum())
