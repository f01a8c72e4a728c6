"""A model in use: `load(path)` gives one that predicts, fills, embeds, generates, evaluates and exports."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.evaluate.embed import Embedder, budget_of, unit_length
from pretune.evaluate.engine import encode_examples, finite_scores
from pretune.evaluate.fill import Guess, fill
from pretune.evaluate.likelihood import Masking, Score, score
from pretune.evaluate.pairs import predict_by_modules
from pretune.evaluate.read import Source, find_source, read_unrounded, read_with_tokenizer
from pretune.evaluate.recorded import trained_task
from pretune.evaluate.stores import evaluate_folder
from pretune.evaluate.uses import USES
from pretune.generate.defaults import resolve_options
from pretune.generate.generate import generate, stream
from pretune.generate.options import Continuation, GenerateOptions
from pretune.generate.session import context_length, encode_prompts
from pretune.interop.description import labelled_role
from pretune.interop.export import Exported, Format, export_model
from pretune.interop.model_tokenizer import fit_tokenizer
from pretune.interop.run_folder import Step
from pretune.interop.weights import SHARD_BYTES
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16
from pretune.nn.model_protocol import find_language_head
from pretune.nn.vectors import PoolingMode
from pretune.runtime.device import choose, is_bf16
from pretune.runtime.precision import Name as Precision
from pretune.runtime.precision import choose_precision
from pretune.tasks.classification import Prediction
from pretune.tasks.task import AnyTask, Truncate, read_examples, read_texts
from pretune.text.readers.labelled import Data, LabelledConfig
from pretune.text.readers.memory import check_texts
from pretune.text.tokenizer.tokenizer import Tokenizer

__all__ = ["Continuation", "Guess", "Model", "Prediction", "Score", "load"]

Texts = list[str] | tuple[str, ...]
_log = logging.getLogger("pretune")


def load(
    path: Path | str,
    device: str = "auto",
    precision: Precision = "auto",
    tokenizer: Path | str | None = None,
    step: Step | None = None,
) -> Model:
    """Read a model and its tokenizer, for use.

    Args:
        path: a folder in the Hugging Face layout, such as a finished run directory; or a checkpoint of a run.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: dtype of matmuls; `auto` uses bf16 where the hardware has a unit for it.
        tokenizer: folder or file, where it is not in the model's folder.
        step: of a run, finished or not, the weights of a checkpoint: `best`, `last` or its number.

    Raises:
        MissingInputError, DataError, UsageError: see `find_source` and `read_with_tokenizer`; or no such device.
    """
    torch_device = choose(device)
    source = find_source(Path(path), step)
    network, own = read_with_tokenizer(source, tokenizer)
    for note in [*source.notes, *(network.loaded.messages() if network.loaded is not None else ())]:
        _log.warning("%s", note)
    chosen = choose_precision(precision, torch_device)
    _log.info("%s", chosen)
    if chosen.name == "bf16":
        cast_to_bf16(network)
    return Model(network.to(torch_device).eval(), own, source)


class Model:
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

    @cached_property
    def _fused(self) -> LanguageModel:
        """The network in its derived form, made when it first pays."""
        return fuse(self.network)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.device

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
        """What it can do: of `generate`, `fill`, `classify`."""
        able = {
            "generate": find_language_head(self.network, "next") is not None,
            "fill": find_language_head(self.network, "masked") is not None
            or (self.network.has_encoder and self.tokenizer.vocabulary.mask is not None),
            "classify": labelled_role(self.network) is not None,
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
        columns: LabelledConfig | None = None,
    ) -> AnyTask:
        """The task that `predict` and `evaluate` use.

        Args:
            task: its name, or its name with settings; by default the one that the model was trained for, else
                classification among its labels.
            truncate: which part of a text that is too long is read; by default as in training.
            columns: how records are read; by default as in training.

        Raises:
            UsageError: no such task, or the model has no labels.
        """
        settings = {"truncate": truncate, "columns": columns}
        overrides = {name: value for name, value in settings.items() if value is not None}
        return trained_task(self.network, self.tokenizer.vocabulary, self._source.folder, task, overrides)

    def predict(
        self,
        data: Data,
        seconds: str | Texts | None = None,
        *,
        truncate: Truncate | None = None,
        columns: LabelledConfig | None = None,
    ) -> Any:
        """What the model's task says of texts, pairs of texts or records.

        Args:
            data: a text, a list of texts, or records: a list of dicts, a DataFrame, an Arrow table, a
                `datasets.Dataset`, whose fields have the names that the model was trained with.
            seconds: the second text of each pair.
            truncate: which part of a text that is too long is read; by default as in training.
            columns: names of the fields of records; by default as in training.

        Returns:
            The task's prediction for a single text, else a list of them; of a classifier they are `Prediction`.

        Raises:
            UsageError: the model has no classification head, or there are more texts than second texts.
            DataError: an empty text; a record without a field, with another type, with a missing value.
        """
        if isinstance(data, str):
            others = [seconds] if isinstance(seconds, str) else seconds
            return self.predict([data], others, truncate=truncate, columns=columns)[0]
        task = self.task(truncate=truncate, columns=columns)
        if isinstance(data, list | tuple) and not any(isinstance(item, Mapping) for item in data):
            others = None if seconds is None else check_texts(seconds, "predict", "second text")
            examples = read_texts(task, check_texts(data, "predict"), others)
        else:
            examples = read_examples(task, data, needs_labels=False)
        rows = encode_examples(task, examples, self.tokenizer, self.length)
        return predict_by_modules(self._fused, task, examples, rows, self.tokenizer)

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

    def embed(
        self,
        texts: Texts,
        pooling: PoolingMode | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool = False,
        budget: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector for each text, from the last layer.

        Args:
            pooling: of the last layer's rows, in place of all modules that the files name; special tokens count, as in
                sentence-transformers. By default what the model's training or its files said; else, as there, the last
                row of a model that its config.json calls `...ForCausalLM`, and the mean of any other.
            prompt: a text that comes before each text; by default the files' default prompt, if they name one.
            prompt_name: of one of the files' prompts.
            normalize: to length 1.
            budget: tokens of a forward; by default what is fast on the device.

        Shape:
            return: (n, width) float32

        Raises:
            UsageError: an unknown pooling or name of a prompt, or a prompt and a name.
            DataError: a text without any token, or one that cannot be encoded.
        """
        if isinstance(texts, str):
            raise UsageError("embed takes a list of texts: embed([text])")
        texts = check_texts(texts, "embed")
        out = Embedder.of(self._fused, self.tokenizer, pooling, prompt, prompt_name, budget)(texts)
        return unit_length(out, texts) if normalize else out

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
        texts = [prompts] if isinstance(prompts, str) else check_texts(prompts, "generate", "prompt")
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

    def score(
        self,
        texts: Texts,
        sources: Texts | None = None,
        *,
        masking: Masking = "token",
        special_tokens: bool | None = None,
        budget: int | None = None,
    ) -> list[Score]:
        """How probable texts are, in numbers that compare across tokenizers: see `evaluate/likelihood.py`.

        Args:
            sources: what an encoder-decoder reads before each; empty texts by default.
            masking: of a masked language model, whose scores are pseudo-likelihoods: `token`, or `word`.
            special_tokens: names of special tokens are the tokens, as in prompts of `generate`; by default where the
                model was made for it.
            budget: tokens of a forward; by default what is fast on the device.

        Raises:
            UsageError: a model without a language modelling head, or sources that do not fit.
            DataError: a text without tokens.
        """
        if isinstance(texts, str) or isinstance(sources, str):
            raise UsageError("score takes lists of texts: score([text])")
        chosen = budget or budget_of(self.device)
        options: dict[str, Any] = {"masking": masking, "special_tokens": special_tokens, "budget": chosen}
        return score(self._fused, self.tokenizer, texts, sources, **options)

    def log_prob(self, text: str, source: str | None = None) -> float:
        """The natural logarithm of a text's probability; of a masked language model, its pseudo-likelihood."""
        return self.score([text], None if source is None else [source])[0].log_prob

    def evaluate(
        self,
        data: Data,
        *,
        columns: LabelledConfig | None = None,
        truncate: Truncate | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        objective: Mapping[str, float | Mapping[str, Any]] | None = None,
        split: str = "validation",
        length: int | None = None,
        pack: str | None = None,
    ) -> dict[str, float]:
        """Scores on labelled data, or losses on a token store.

        Args:
            data: labelled files (CSV, TSV, JSONL, Parquet) or records (a list of dicts, a DataFrame, an Arrow table, a
                `datasets.Dataset`); or the folder of a token store.
            columns: how labelled data are read; by default as in training.
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
            _refuse("labelled data", of_stores | {"split": None if split == "validation" else split})
            judge = self.task(task, truncate=truncate, columns=columns)
            examples = read_examples(judge, data)
            rows = encode_examples(judge, examples, self.tokenizer, self.length)
            predictions = predict_by_modules(self._fused, judge, examples, rows, self.tokenizer)
            return finite_scores(judge.score(predictions, examples))
        _refuse("a token store", {"columns": columns, "truncate": truncate, "task": task})
        size = length or min(128, self.length)
        return evaluate_folder(
            self.network,
            self.tokenizer,
            path,
            objective,
            model_folder=self._source.folder,
            split=split,
            length=size,
            pack=pack,
        )

    def export(
        self,
        directory: Path | str,
        *,
        format: Format = "fp32",
        max_shard_bytes: int = SHARD_BYTES,
        pooling: PoolingMode | None = None,
    ) -> Exported:
        """Write the model for `transformers`; done when the files were read again, by its own reader too, and compared.

        Args:
            format: of the weights in the files.
            max_shard_bytes: of one file of weights.
            pooling: write what `sentence-transformers` reads too, whose vectors are those of `embed(texts, pooling)`;
                by default the modules, prompts and lengths that the model's training or its files said, if any.

        Raises:
            DataError: what was read again differs, and nothing was changed in the directory; or the model was rounded
                to bf16 when it was loaded, and its files have changed since.
            CannotCreateError: the directory holds anything but an earlier export of this model.
        """
        return export_model(
            read_unrounded(self.network, self._source, self.tokenizer) if self._is_bf16 else self.network,
            directory,
            self.tokenizer,
            format=format,
            max_shard_bytes=max_shard_bytes,
            pooling=pooling,
            uses=USES,
        )


def _refuse(data: str, options: Mapping[str, object]) -> None:
    """Refuses options of `evaluate` that are given and would be dropped."""
    names = ", ".join(name for name, value in options.items() if value is not None)
    if names:
        raise UsageError(f"evaluate on {data} makes no use of {names}; leave it out, or name other data")
