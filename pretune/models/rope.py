"""Rotary positions as `config.json` describes them, in the current form or in the older one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pretune import config as configuration
from pretune.nn.rotary import Linear, Llama3, Rotary, Scaling, Yarn

_OLD = {"type": "rope_type", "scaling_type": "rope_type"}


class RopeConfig(configuration.Config):
    """The frequencies of a model, or of one type of its layers.

    Attributes:
        rope_type: how they are scaled; the other fields are of some types alone. `dynamic` scales beyond the model's
            positions alone, where no sequence here goes.
    """

    rope_type: Literal["default", "linear", "dynamic", "llama3", "yarn"] = "default"
    rope_theta: float = Field(10_000.0, gt=1, le=1e12)
    factor: float | None = Field(None, ge=1, le=1e6)
    low_freq_factor: float | None = Field(None, gt=0)
    high_freq_factor: float | None = Field(None, gt=0)
    original_max_position_embeddings: int | None = Field(None, ge=1, le=2**24)
    attention_factor: float | None = Field(None, gt=0)
    beta_fast: float | None = Field(None, gt=0)
    beta_slow: float | None = Field(None, gt=0)
    mscale: float | None = Field(None, ge=0)
    mscale_all_dim: float | None = Field(None, ge=0)
    truncate: bool | None = None
    partial_rotary_factor: Literal[1] | None = None

    @model_validator(mode="before")
    @classmethod
    def _older(cls, tree: Any) -> Any:
        return {_OLD.get(name, name): value for name, value in tree.items()} if isinstance(tree, Mapping) else tree

    @model_validator(mode="after")
    def _complete(self) -> RopeConfig:
        needed = {
            "linear": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
            "yarn": ("factor", "original_max_position_embeddings"),
        }
        missing = [name for name in needed.get(self.rope_type, ()) if getattr(self, name) is None]
        if missing:
            raise ValueError(f"rope_type {self.rope_type} needs {', '.join(missing)}")
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}

    def rotary(self, width: int) -> Rotary:
        """The brick for heads of this width."""
        return Rotary(width, self.rope_theta, self._scaling())

    def _scaling(self) -> Scaling:
        factor, original = self.factor or 1.0, self.original_max_position_embeddings or 1
        if self.rope_type == "linear":
            return Linear(factor)
        if self.rope_type == "llama3":
            return Llama3(factor, self.low_freq_factor or 1.0, self.high_freq_factor or 4.0, original)
        if self.rope_type == "yarn":
            fast, slow = self.beta_fast or 32.0, self.beta_slow or 1.0
            return Yarn(factor, original, fast, slow, self._amplitude(factor), self.truncate is not False)
        return Scaling()

    def _amplitude(self, factor: float) -> float | None:
        """The factor of queries and keys, which DeepSeek's files say as two that are divided."""
        if self.attention_factor is not None or not (self.mscale and self.mscale_all_dim):
            return self.attention_factor
        over, under = (0.1 * scale * math.log(factor) + 1.0 for scale in (self.mscale, self.mscale_all_dim))
        return over / under


def rope_fields(tree: Mapping[str, Any], theta: float = 10_000.0) -> dict[str, Any]:
    """`rope_parameters` of a configuration that may say it as `rope_theta` and `rope_scaling`, which goes first."""
    fields = tree.get("rope_scaling") or tree.get("rope_parameters") or {}
    return complete(fields, tree, tree.get("rope_theta") or theta) if isinstance(fields, Mapping) else {"": fields}


def complete(fields: Mapping[str, Any], tree: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """The fields of one rotation with what files leave out: the base, the original length, and their ratio.

    Args:
        tree: the whole configuration.
        theta: the base where the fields do not say it.
    """
    out = dict(fields)
    if out.get("rope_theta") is None:
        out["rope_theta"] = theta
    if out.get("rope_type", out.get("type")) in ("yarn", "llama3"):
        length, original = tree.get("max_position_embeddings"), tree.get("original_max_position_embeddings")
        if original is not None:
            out["original_max_position_embeddings"] = original
        out.setdefault("original_max_position_embeddings", length)
        original = out["original_max_position_embeddings"]
        if out.get("factor") is None and isinstance(length, int) and isinstance(original, int) and original > 0:
            out["factor"] = length / original
    return out
