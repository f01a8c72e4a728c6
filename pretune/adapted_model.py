"""One model with several adapters in use at once: `pretune.load(base, adapters={"name": folder})`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.evaluate.embedding import Embedded, EmbedOptions, embed_texts_by
from pretune.evaluate.engine import encode_examples
from pretune.evaluate.labelled import Columns, Texts, examples_of
from pretune.evaluate.pairs import predict_by_modules, reads_by_modules
from pretune.evaluate.prompted import PromptOptions
from pretune.evaluate.read import Source
from pretune.evaluate.results import texts_of
from pretune.evaluate.together import Reading, predict_together
from pretune.find import suggest
from pretune.generate.defaults import resolve_options
from pretune.generate.generate import generate
from pretune.generate.options import Continuation, GenerateOptions
from pretune.generate.session import PromptAdapters, encode_prompts
from pretune.model import Model
from pretune.models.adapters import SharedModels
from pretune.models.fuse import Products, fuse
from pretune.models.model import LanguageModel
from pretune.nn.grouped import BASE
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import find_language_head
from pretune.nn.vectors import PoolingMode
from pretune.tasks.shared.predictions import Predictions
from pretune.tasks.task import AnyTask, Example, Truncate
from pretune.text.readers.labelled import Data
from pretune.text.readers.memory import Records, as_list, check_texts
from pretune.text.samples.rows import Encoded
from pretune.text.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
Adapter = str | Sequence[str | None] | None
"""The name of an adapter, or a name for each text; None is the base alone."""


class AdaptedModel(Model):
    """A base model, and adapters that were tuned on it; all share its weights.

    `predict`, `embed`, `generate` and `continuations` take `adapter=`: a name, or one for each text. Texts of different
    adapters are read in one batch, where the base computes all of them at once. For anything else, `using(name)` gives
    a model with one adapter.

    Args:
        models: the base and its forms, on their device.
        tokenizer: of the base, and of all adapters.
        sources: where each adapter was read, by their names, in the order of the forms.
        source: where the base was read.

    """

    def __init__(
        self, models: SharedModels, tokenizer: Tokenizer, sources: Mapping[str, Source], source: Source | Path | str
    ) -> None:
        super().__init__(models.base, tokenizer, source)
        self._shared, self._products = models, Products(merges=False)
        self._members = {
            name: _Member(form, tokenizer, origin, self._products)
            for (name, origin), form in zip(sources.items(), models.forms, strict=True)
        }
        self._numbers = {name: number for number, name in enumerate(sources)}

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of its adapters."""
        return tuple(self._members)

    @property
    def apart(self) -> dict[str, str]:
        """Why an adapter reads its texts in batches of its own, by its name; all others share theirs."""
        return {name: self._shared.apart[n] for name, n in self._numbers.items() if n in self._shared.apart}

    def using(self, adapter: str | None) -> Model:
        """The model with one adapter, or the base alone; it shares all weights, so that this costs nothing.

        Raises:
            UsageError: no such adapter.
        """
        if adapter is None:
            return _Member(self.network, self.tokenizer, self._source, self._products)
        if adapter not in self._members:
            raise UsageError(f"no adapter {adapter!r}; {suggest(adapter, list(self._members))}")
        return self._members[adapter]

    def _number(self, name: str | None) -> int:
        return BASE if name is None else self._numbers[name]

    @cached_property
    def _fused(self) -> LanguageModel:
        """The base in its derived form."""
        return fuse(self.network, self._products)

    @cached_property
    def _together(self) -> LanguageModel:
        """The model that reads all adapters' texts, in its derived form."""
        return fuse(self._shared.network, self._products)

    def predict(
        self,
        data: Data,
        seconds: str | Texts | None = None,
        *,
        truncate: Truncate | None = None,
        columns: Columns | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        adapter: Adapter = None,
        **prompting: Unpack[PromptOptions],
    ) -> Any:
        """As `Model.predict`, of the task of an adapter, or of the one that each text's adapter was trained for.

        Args:
            adapter: a name, or one for each text; None, the default, is the base alone.

        Raises:
            UsageError: no such adapter, or more texts than names, or a prompt for texts of several adapters; else as
                `Model.predict`.
            DataError: as `Model.predict`.
        """
        inputs: Any = (data, seconds)  # a text or many, as the overloads of `Model.predict` have it
        if adapter is None:
            return super().predict(*inputs, truncate=truncate, columns=columns, task=task, **prompting)
        if isinstance(adapter, str):
            return self.using(adapter).predict(*inputs, truncate=truncate, columns=columns, task=task, **prompting)
        if prompting:
            raise UsageError(f"{', '.join(prompting)}: a prompt asks one adapter; name it for all texts")
        items = as_list(data)
        texts: list[Any] = list(items) if isinstance(items, list | tuple) else [items]
        others = None if seconds is None else check_texts(seconds, "predict", "second text")
        if others is not None and len(others) != len(texts):
            raise UsageError(f"{len(texts)} texts and {len(others)} second texts")
        uses = []
        for name, index in self._by_adapter(adapter, len(texts)).items():
            model = self.using(name)
            own_task = model.task(task, truncate=truncate, columns=columns)
            own_others = None if others is None else [others[n] for n in index]
            examples = examples_of(own_task, [texts[n] for n in index], own_others)
            rows = encode_examples(own_task, examples, self.tokenizer, model.length)
            uses.append(_Use(name, self._number(name), model, own_task, examples, rows, index))
        return self._predictions(uses, len(texts))

    def _predictions(self, uses: Sequence[_Use], count: int) -> Predictions[Any]:
        """The predictions of all adapters in the order of the texts."""
        answers: list[tuple[Sequence[int], Sequence[object]]] = []
        together = []
        for use in uses:
            is_apart = use.number in self._shared.apart or "write" in use.task.abilities.values()
            if is_apart or len(uses) == 1 or reads_by_modules(use.fused, use.task, self.tokenizer):
                parts = (use.fused, use.task, use.examples, use.rows, self.tokenizer)
                answers.append((use.index, predict_by_modules(*parts)))
            else:
                together.append(use)
        readings = [Reading(use.number, use.fused, use.task, use.examples, use.rows) for use in together]
        if readings:
            predicted = predict_together(self._together, readings, self.tokenizer)
            answers += [(use.index, own) for use, own in zip(together, predicted, strict=True)]
        texts = [(use.index, [texts_of(example) for example in use.examples]) for use in uses]
        briefs = {type(use.task): use.task.brief for use in uses}
        brief = next(iter(briefs.values())) if len(briefs) == 1 else lambda _: {}
        return Predictions(_in_order(answers, count), _in_order(texts, count), brief)

    def embed(
        self,
        texts: str | Path | Texts | Records,
        pooling: PoolingMode | None = None,
        *,
        adapter: Adapter = None,
        of: Embedded = "texts",
        **options: Unpack[EmbedOptions],
    ) -> Any:
        """As `Model.embed`, with an adapter, or with one for each text.

        Args:
            adapter: a name, or one for each text; None, the default, is the base alone.

        Raises:
            UsageError: no such adapter, more texts than names, or tokens and words of several adapters; else as
                `Model.embed`.
        """
        if adapter is None:
            return super().embed(texts, pooling, of=of, **options)  # type: ignore[arg-type]
        if isinstance(adapter, str):
            return self.using(adapter).embed(texts, pooling, of=of, **options)  # type: ignore[arg-type]
        if of != "texts":
            raise UsageError(f"embed of {of}: one adapter reads all texts; name one, or call embed for each")
        many = check_texts(texts, "embed", single=True, column=self.network.metadata.text_column)
        out: list[tuple[Sequence[int], Sequence[NDArray[np.float32]]]] = []
        together: list[int] = []
        group: list[int] = []
        texts_of_each = self._by_adapter(adapter, len(many))
        if not texts_of_each:
            return super().embed(texts, pooling, **options)
        for name, index in texts_of_each.items():
            model, number = cast(_Member, self.using(name)), self._number(name)
            own_vectors, vectors = model.network.vectors, self.network.vectors
            if number in self._shared.apart or (pooling is None and repr(own_vectors) != repr(vectors)):
                own = [many[n] for n in index]
                out.append((index, list(embed_texts_by(model.fused, self.tokenizer, own, pooling, **options))))
            else:
                together += index
                group += [number] * len(index)
        if together:
            numbers = np.array(group, np.int64)
            chosen = [many[n] for n in together]
            vectors_of = embed_texts_by(self._together, self.tokenizer, chosen, pooling, numbers, **options)
            out.append((together, list(vectors_of)))
        rows = np.stack(_in_order(out, len(many)))
        return rows[0] if isinstance(texts, str) else rows

    def generate(self, prompts: str | Texts, adapter: Adapter = None, **options: Unpack[GenerateOptions]) -> Any:
        """As `Model.generate`, with an adapter, or with one for each prompt.

        Args:
            adapter: a name, or one for each prompt; None, the default, is the base alone.

        Raises:
            UsageError: no such adapter, or more prompts than names; else as `Model.generate`.
        """
        texts = check_texts(prompts, "generate", "prompt", single=True, column=self.network.metadata.text_column)
        written = [continuation.text for continuation in self.continuations(texts, adapter, **options)]
        return written[0] if isinstance(prompts, str) else written

    def continuations(
        self, prompts: Texts, adapter: Adapter = None, **options: Unpack[GenerateOptions]
    ) -> list[Continuation]:
        """As `generate`, with tokens and the reason why each text ended."""
        if adapter is None:
            return super().continuations(prompts, **options)
        if isinstance(adapter, str):
            return self.using(adapter).continuations(prompts, **options)
        config = resolve_options(self.network, options)
        tokens = encode_prompts(self.network, self.tokenizer, prompts, config.special_tokens)
        out: list[tuple[Sequence[int], Sequence[Continuation]]] = []
        together: list[tuple[int, int]] = []
        heads: dict[int, VocabularyHead] = {}
        for name, index in self._by_adapter(adapter, len(tokens)).items():
            model, number = cast(_Member, self.using(name)), self._number(name)
            head = find_language_head(model.fused, "next")
            if number in self._shared.apart or head is None:
                out.append((index, generate(model.fused, self.tokenizer, [tokens[n] for n in index], config)))
            else:
                heads[number] = head
                together += [(n, number) for n in index]
        if together:
            together.sort()  # prompts of one adapter need not follow each other
            adapters = PromptAdapters(tuple(number for _, number in together), _same_heads(heads))
            chosen = [n for n, _ in together]
            parts = [tokens[n] for n in chosen]
            out.append((chosen, generate(self._together, self.tokenizer, parts, config, adapters)))
        return _in_order(out, len(tokens))

    def _by_adapter(self, adapter: Sequence[str | None], count: int) -> dict[str | None, list[int]]:
        """The numbers of the texts of each adapter.

        Raises:
            UsageError: another number of names than of texts, or a name that is not there.
        """
        if len(adapter) != count:
            raise UsageError(f"{len(adapter)} names of adapters for {count} texts; give one for each, or one for all")
        index: dict[str | None, list[int]] = {}
        for n, name in enumerate(adapter):
            index.setdefault(name, []).append(n)
        for name in index:
            self.using(name)
        return index


class _Member(Model):
    """A base with one adapter, which shares derived forms with the others."""

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, source: Source, products: Products) -> None:
        super().__init__(network, tokenizer, source)
        self._products = products

    @cached_property
    def _fused(self) -> LanguageModel:
        return fuse(self.network, self._products)

    @property
    def fused(self) -> LanguageModel:
        """Its derived form."""
        return self._fused


class _Use:
    """What one adapter predicts of."""

    def __init__(
        self,
        name: str | None,
        number: int,
        model: Model,
        task: AnyTask,
        examples: Sequence[Example],
        rows: Sequence[Encoded],
        index: Sequence[int],
    ) -> None:
        self.name, self.number, self.fused = name, number, cast(_Member, model).fused
        self.task, self.examples, self.rows, self.index = task, examples, rows, index


def _in_order(parts: Sequence[tuple[Sequence[int], Sequence[T]]], count: int) -> list[T]:
    """Items of several parts at the numbers that they have among all."""
    out: dict[int, T] = {}
    for index, items in parts:
        out.update(zip(index, items, strict=True))
    return [out[n] for n in range(count)]


def _same_heads(heads: Mapping[int, VocabularyHead]) -> dict[int, VocabularyHead]:
    """The heads, where those that compute the same are one."""
    known: dict[object, VocabularyHead] = {}
    return {number: known.setdefault(_weights_of(head), head) for number, head in heads.items()}


def _weights_of(head: VocabularyHead) -> object:
    return tuple((name, id(weight)) for name, weight in head.named_parameters())
