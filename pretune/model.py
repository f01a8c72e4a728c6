"""A model in use, which `pretune.load(path)` gives: it predicts, fills, embeds, generates, evaluates and exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from pretune.evaluate.chats import Chats
from pretune.evaluate.embedding import Embeds
from pretune.evaluate.facts import describe_model
from pretune.evaluate.fill import Guess, fill
from pretune.evaluate.labelled import Columns, Texts, evaluate_data, merge_columns, predict_data, refuse_unused
from pretune.evaluate.likelihoods import Likelihoods
from pretune.evaluate.prompted import PromptOptions
from pretune.evaluate.prompting import Prompting
from pretune.evaluate.read import Source
from pretune.evaluate.recorded import trained_task
from pretune.evaluate.results import Evaluation
from pretune.evaluate.sparse_use import SparseUse
from pretune.evaluate.stores import evaluate_folder
from pretune.generate.defaults import resolve_options
from pretune.generate.generate import generate, stream
from pretune.generate.options import Continuation, GenerateOptions
from pretune.generate.session import context_length, encode_prompts
from pretune.interop.head_labels import labels_of
from pretune.interop.model_tokenizer import fit_tokenizer
from pretune.models.metadata import Metadata
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.device import is_bf16
from pretune.table import Table
from pretune.tasks.shared.predictions import Predictions
from pretune.tasks.task import AnyTask, Truncate
from pretune.text.readers.files import names_file
from pretune.text.readers.labelled import Data
from pretune.text.readers.memory import check_texts
from pretune.text.tokenizer.tokenizer import Tokenizer


class Model(Embeds, Prompting, Chats, SparseUse, Likelihoods):
    """A model with its tokenizer, ready for use.

    Args:
        network: on its device; it is not changed.
        tokenizer: that it was trained with.
        source: where it was read: a folder, or a step of a run.
    """

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, source: Source | Path | str = ".") -> None:
        self.network = network
        self.tokenizer = fit_tokenizer(tokenizer, network)
        self._source = source if isinstance(source, Source) else Source(Path(source))
        self._is_bf16 = is_bf16(network)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.device

    @property
    def metadata(self) -> Metadata:
        """What its files say of it: its tasks, with the columns that they read."""
        return self.network.metadata

    @property
    def digits(self) -> int:
        """Significant digits that its probabilities have: those of its dtype."""
        return 4 if self._is_bf16 else 7

    @property
    def length(self) -> int:
        """Tokens that a text may have, special ones included: longer texts are truncated."""
        return context_length(self.network, self.tokenizer)

    @property
    def continues(self) -> bool:
        """Whether what it generates goes on with the prompt; an encoder-decoder writes a text of its own."""
        return not self.network.has_encoder

    @property
    def abilities(self) -> set[str]:
        """What it can do: of `generate`, `fill`, `classify`, `chat`."""
        able = {
            "generate": find_language_head(self.network, "next") is not None,
            "fill": find_language_head(self.network, "masked") is not None
            or (self.network.has_encoder and self.tokenizer.vocabulary.mask is not None),
            "classify": labels_of(self.network) is not None,
            "chat": self.has_chat_template and not self.network.has_encoder,
        }
        return {ability for ability, has in able.items() if has}

    @property
    def labels(self) -> list[str]:
        """What `predict` chooses among.

        Raises:
            UsageError: the model has no classification head.
        """
        return self.network.labels

    def task(
        self,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        *,
        truncate: Truncate | None = None,
        columns: Columns | None = None,
    ) -> AnyTask:
        """The task that `predict` and `evaluate` use.

        Args:
            task: its name, or its name with settings; by default the one that the model was trained for, else
                classification among its labels. Of a model that learned several, one has to be named.
            truncate: which part of a text that is too long is read; by default as in training.
            columns: how records are read; what plain values leave out is as in training.

        Raises:
            UsageError: no such task, or the model has no labels.
        """
        name = task if task is None or isinstance(task, str) else next(iter(task))
        settings = {"truncate": truncate, "columns": merge_columns(self.metadata, columns, name)}
        overrides = {name: value for name, value in settings.items() if value is not None}
        return trained_task(self.network, self.tokenizer.vocabulary, self._source.folder, task, overrides)

    @overload
    def predict(
        self,
        data: str,
        seconds: str | None = None,
        *,
        truncate: Truncate | None = None,
        columns: Columns | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        **prompting: Unpack[PromptOptions],
    ) -> Any: ...
    @overload
    def predict(
        self,
        data: Data,
        seconds: Texts | None = None,
        *,
        truncate: Truncate | None = None,
        columns: Columns | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        **prompting: Unpack[PromptOptions],
    ) -> Predictions[Any]: ...
    def predict(
        self,
        data: Data,
        seconds: str | Texts | None = None,
        *,
        truncate: Truncate | None = None,
        columns: Columns | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        **prompting: Unpack[PromptOptions],
    ) -> Any:
        """What the model's task says of texts, pairs of texts or records.

        Args:
            data: a text, a list of texts, or records: a file, a list of dicts, a DataFrame, an Arrow table, a
                `datasets.Dataset`, whose fields have the names that the model was trained with.
            seconds: the second text of each pair.
            truncate: which part of a text that is too long is read; by default as in training.
            columns: names of the fields of records, such as `{"text": "title"}`; by default as in training.
            task: which of several tasks that the model learned; with settings where some are to be others than in its
                training: `{"generation": {"beams": 5}}`.
            prompting: `labels`, `prompt`, `shots` ..., by which the language head is asked: see `prompted`.

        Returns:
            The task's prediction for a single text, else `Predictions`, a list of them; of a classifier each is a
            `Prediction`.

        Raises:
            UsageError: the model has no classification head, or there are more texts than second texts.
            DataError: an empty text; a record without a field, with another type, with a missing value.
        """
        if prompting:
            return self.prompted(columns=columns, truncate=truncate, **prompting).answer(data, seconds, task)
        chosen = self.task(task, truncate=truncate, columns=columns)
        if isinstance(data, str) and not names_file(data):
            others = [seconds] if isinstance(seconds, str) else seconds
            return predict_data(self._fused, self.tokenizer, chosen, [data], others, self.length)[0]
        return predict_data(self._fused, self.tokenizer, chosen, data, seconds, self.length)

    def fill(self, text: str, top: int = 5, second: str | None = None) -> list[list[Guess]]:
        """The most probable tokens for each mask in a text, such as `"Paris is the [MASK] of France."`.

        Args:
            second: the second text of a pair, which may hold masks too.

        Returns:
            one list for each mask, in their order, best first.

        Raises:
            UsageError: a model or tokenizer without masks, or no mask in the text.
        """
        first, *others = check_texts([text] if second is None else [text, second], "fill")
        return fill(self.network, self.tokenizer, first, top, *others)

    @overload
    def generate(self, prompts: str, **options: Unpack[GenerateOptions]) -> str: ...
    @overload
    def generate(self, prompts: Texts, **options: Unpack[GenerateOptions]) -> list[str]: ...
    def generate(self, prompts: str | Texts, **options: Unpack[GenerateOptions]) -> str | list[str]:
        """What follows a prompt, without the prompt; of an encoder-decoder, what it writes after it has read one.

        Args:
            prompts: one, or many of any lengths; each is continued as if it were alone.
            options: fields of `GenerateConfig`: max_new_tokens, temperature, top_k, top_p, beams, stop, seed ...

        Raises:
            UsageError: an option out of range, an empty or too long prompt, a model that does not generate.
        """
        texts = check_texts(prompts, "generate", "prompt", single=True, column=self.network.metadata.text_column)
        written = [continuation.text for continuation in self.continuations(texts, **options)]
        return written[0] if isinstance(prompts, str) else written

    def continuations(self, prompts: Texts, **options: Unpack[GenerateOptions]) -> list[Continuation]:
        """As `generate`, with tokens and the reason why each text ended."""
        config = resolve_options(self.network, options)
        tokens = encode_prompts(self.network, self.tokenizer, prompts, config.special_tokens)
        return generate(self._fused, self.tokenizer, tokens, config)

    def stream(self, prompt: str, **options: Unpack[GenerateOptions]) -> Iterator[str]:
        """As `generate`, handing out the text as it grows, by whole characters."""
        config = resolve_options(self.network, options)
        tokens = encode_prompts(self.network, self.tokenizer, [prompt], config.special_tokens)
        parts = stream(self._fused, self.tokenizer, tokens, config)
        return (text for _, text in parts)

    def evaluate(
        self,
        data: Data,
        *,
        columns: Columns | None = None,
        truncate: Truncate | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        objective: Mapping[str, float | Mapping[str, Any]] | None = None,
        split: str = "validation",
        length: int | None = None,
        pack: str | None = None,
    ) -> Evaluation:
        """Scores on labelled data, or losses on a token store.

        Args:
            data: labelled files (CSV, TSV, JSONL, Parquet) or records (a list of dicts, a DataFrame, an Arrow table, a
                `datasets.Dataset`); or the folder of a token store.
            columns: how labelled data are read, such as `{"text": "title"}`; by default as in training.
            truncate: which part of a text that is too long is read; by default as in training.
            task: for labelled data, by default the one that the model was trained for, else classification; with
                settings where it has some: `{"similarity": {"pooling": "cls"}}`.
            objective: for a store, such as `{"span": 1.0}`; by default those that the model's files record, with their
                settings, else what its heads were made for, which an encoder-decoder's do not tell.
            split: of a store: `validation` or `train`.
            length: tokens of a window of a store; by default 128, or the model's positions if fewer.
            pack: `stream` or `document`; by default the objective's habit.

        Raises:
            UsageError: the model lacks the head, or an option means nothing on such data.
            DataError: a bad record, a label that the model does not know, a store of another tokenizer.
        """
        path = Path(data) if isinstance(data, str | Path) else None
        if path is None or not (path / "manifest.json").is_file():
            of_stores = {"objective": objective, "length": length, "pack": pack}
            refuse_unused("labelled data", of_stores | {"split": None if split == "validation" else split})
            judge = self.task(task, truncate=truncate, columns=columns)
            return evaluate_data(self._fused, self.tokenizer, judge, data, self.length)
        refuse_unused("a token store", {"columns": columns, "truncate": truncate, "task": task})
        losses = evaluate_folder(
            self.network,
            self.tokenizer,
            path,
            objective,
            model_folder=self._source.folder,
            split=split,
            length=length or min(128, self.length),
            pack=pack,
        )
        return Evaluation(losses)

    @property
    def facts(self) -> Table:
        """What it is and what it can do, as a table."""
        return describe_model(self.network, self._source.folder, self.abilities, self.length)

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{name}={value}' for name, value in self.facts.rows)})"

    def _repr_html_(self) -> str:
        return self.facts.html()
