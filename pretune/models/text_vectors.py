"""How texts become vectors: the modules after a model's last layer, prompts and lengths; handed on with the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pretune.errors import UsageError
from pretune.nn.vectors import Pooling, PoolingMode, SparsePool, TextFeatures, VectorBrick

Fields = Mapping[str, Any]
_ALWAYS: Mapping[str, str] = {"query": "", "document": ""}  # prompts that sentence-transformers knows in every model


@dataclass(frozen=True)
class VectorModule:
    """Holds one module as its files say it.

    Attributes:
        type: dotted name of its class, as in modules.json.
        fields: of its config.json; None where it has none.
        brick: what it computes; None for one that does nothing in use, such as dropout.
        kwargs: names of the arguments that its calls take, as in modules.json.
    """

    type: str
    fields: Fields | None
    brick: VectorBrick | None
    kwargs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextVectors:
    """What the files of `sentence-transformers`, or a training run, say of a model's vectors.

    Attributes:
        modules: after the model's last layer, in order.
        max_length: tokens of a text, special ones included; None where tokenizer and positions decide.
        lowercase: texts are lower-cased before they are tokenized.
        dimensions: leading numbers of a vector that are kept; None for all.
        prompts: texts that come before each text, by name.
        default_prompt_name: of the prompt that is used where none is named; None for none.
        fields: of the files sentence_bert_config.json and config_sentence_transformers.json, by the file's name.
    """

    modules: tuple[VectorModule, ...]
    max_length: int | None = None
    lowercase: bool = False
    dimensions: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    fields: Mapping[str, Fields] = field(default_factory=dict)

    @classmethod
    def pooled(cls, mode: PoolingMode) -> TextVectors:
        """Vectors that are one pooling of the last layer's rows."""
        return cls((VectorModule("sentence_transformers.models.Pooling", None, Pooling([mode])),))

    @classmethod
    def sparse(cls) -> TextVectors:
        """Vectors of the vocabulary's size: the largest score of each token that the masked language model gives."""
        name = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
        return cls((VectorModule(name, None, SparsePool()),))

    @property
    def sparse_pool(self) -> SparsePool | None:
        """What makes sparse vectors; None of dense ones."""
        first = next(iter(self.bricks), None)
        return first if isinstance(first, SparsePool) else None

    def repooled(self, mode: PoolingMode) -> TextVectors:
        """The same prompts and lengths, with one pooling in place of all modules."""
        return replace(self, modules=TextVectors.pooled(mode).modules, dimensions=None)

    def to(self, device: torch.device) -> TextVectors:
        """The same vectors, computed on a device."""
        modules = (
            replace(m, brick=None if m.brick is None else copy.deepcopy(m.brick).to(device)) for m in self.modules
        )
        return replace(self, modules=tuple(modules))

    @property
    def bricks(self) -> list[VectorBrick]:
        """What the modules compute, in order."""
        return [module.brick for module in self.modules if module.brick is not None]

    @property
    def pooling(self) -> PoolingMode | None:
        """The pooling, where the vectors are one pooling of the rows and nothing more; else None."""
        bricks = self.bricks
        single = len(bricks) == 1 and isinstance(bricks[0], Pooling) and len(bricks[0].modes) == 1
        return bricks[0].modes[0] if single and isinstance(bricks[0], Pooling) and self.dimensions is None else None

    @property
    def first_pooling(self) -> PoolingMode | None:
        """The first pooling among the modules, whatever else there is; None of one that has several modes."""
        poolings = [brick for brick in self.bricks if isinstance(brick, Pooling)]
        return poolings[0].modes[0] if poolings and len(poolings[0].modes) == 1 else None

    @property
    def row(self) -> PoolingMode | None:
        """`cls` or `last`, where this is the only row of a text that is read; else None."""
        first = self.bricks[0]
        if isinstance(first, Pooling) and first.include_prompt and first.modes in (("cls",), ("last",)):
            rest = [brick for brick in self.bricks[1:] if brick.reads == "token_embeddings"]
            return None if rest else first.modes[0]
        return None

    @property
    def skips_prompt(self) -> bool:
        """Whether a pooling leaves out the rows of the prompt."""
        return any(isinstance(brick, Pooling) and not brick.include_prompt for brick in self.bricks)

    def settings(self) -> dict[str, Any]:
        """All that is said of the vectors but weights, as JSON has it."""
        modules = [[module.type, module.fields] for module in self.modules]
        others = (self.max_length, self.lowercase, self.dimensions, dict(self.prompts), self.default_prompt_name)
        return {"modules": modules, "words": self.describe(), "others": others}

    def describe(self) -> str:
        """The modules and prompts in words."""
        names = []
        for module in self.modules:
            name = module.type.rpartition(".")[2]
            names.append(f"{name} ({', '.join(module.brick.modes)})" if isinstance(module.brick, Pooling) else name)
        prompts = [name for name, text in self.prompts.items() if text]
        return ", ".join(names) + (f" and prompts ({', '.join(prompts)})" if prompts else "")

    def width(self, rows: int) -> int:
        """Numbers of a vector, for rows of some width."""
        widths = {"token_embeddings": rows, "sentence_embedding": rows}
        for brick in self.bricks:
            widths[brick.writes] = brick.width(widths[brick.reads])
        width = widths["sentence_embedding"]
        return width if self.dimensions is None else min(width, self.dimensions)

    def compute(self, features: TextFeatures) -> Tensor:
        """The vectors of some texts. Shape: return: (N, width)."""
        with torch.autocast(features.rows.device.type, enabled=False):
            for brick in self.bricks:
                brick(features)
        assert features.vectors is not None  # a pooling is among the modules
        return features.vectors[:, : self.dimensions]

    def prompt(self, prompt: str | None = None, name: str | None = None) -> str:
        """The text that comes before each text; empty where nothing says one.

        Args:
            prompt: this one.
            name: of one of the files' prompts; by default their default one.

        Raises:
            UsageError: both, or a name that the files do not have.
        """
        if prompt is not None and name is not None:
            raise UsageError(f"prompt {prompt[:40]!r} and prompt name {name!r}: give one of them")
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        prompts = {**_ALWAYS, **self.prompts}
        if name is not None and name not in prompts:
            raise UsageError(f"prompt name {name!r}: this model has {', '.join(prompts)}; or give the prompt itself")
        return "" if name is None else prompts[name]
