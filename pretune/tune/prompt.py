"""The tuning method that trains vectors in front of every embedded sequence.

Source: Lester et al. 2021, arXiv 2104.08691.
"""

from __future__ import annotations

from typing import Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from pretune import config
from pretune.errors import UsageError
from pretune.nn.embedding import Embedding
from pretune.nn.model_protocol import TrainableModel
from pretune.nn.prompt import LearnedPrompt, NoPrompt
from pretune.tune.prefix import COMMON
from pretune.tune.surgery import freeze_body

M = TypeVar("M", bound=nn.Module)
RATE = 1e-2  # Lester et al., section 3: 0.3 of Adafactor


class Config(config.Config):
    """How long the prompt is and how it begins.

    The vectors stand before the first token of each sequence, its special tokens included, and are read like tokens of
    the first segment: each layer computes them, and positions count them, so a model with a limited number of
    positions reads texts that are so much shorter. An encoder-decoder has them in front of its source. The model gives
    answers for the tokens of the text alone. It cannot be merged into a plain model, and changes the model's answers
    from the first step on.

    Attributes:
        length: vectors in front of each sequence.
        initial: what they are at first: `tokens`, the vectors of frequent tokens of the vocabulary, drawn by chance; or
            `normal`, numbers from a normal distribution with the deviation of the model's initial weights.
        first_row: what answers for the first row of a sequence, which the heads of some models read as that of the
            whole: the `text`'s first token, or the `prompt`'s first vector, as `peft` has it.
    """

    length: int = Field(20, ge=1, le=2**14)
    initial: Literal["tokens", "normal"] = "tokens"
    first_row: Literal["text", "prompt"] = "text"


def apply(model: M, config: Config) -> M:
    """Puts vectors in front of every sequence, or source; they and the heads train.

    Raises:
        UsageError: a model that has a prompt already, or no position left for a text.
    """
    body = cast(TrainableModel, model)
    embedding = cast(Embedding, model.get_submodule("encoder.embedding" if body.has_encoder else "embedding"))
    if not isinstance(embedding.prompt, NoPrompt):
        raise UsageError("tune.prompt: the model has a prompt already; tune with one method that sets it")
    if body.max_length is not None and body.max_length <= config.length:
        raise UsageError(
            f"tune.prompt: field 'length' = {config.length}: the model has {body.max_length} positions, and the text "
            "needs some of them; make it shorter"
        )
    freeze_body(model)
    vectors = _initial(embedding, config, body).to(body.device)
    embedding.prompt = LearnedPrompt(vectors, leads=config.first_row == "prompt")
    return model


def after_step(model: nn.Module, fraction: float) -> None:
    """Keeps how large the gradients were, by which `idle` tells a prompt that nothing which is trained reads."""
    del fraction
    for brick in _prompts(model).values():
        brick.note_gradient()


def acted(model: nn.Module) -> list[str]:
    """The prompt that had a gradient."""
    return [
        f"{path}: {brick.length} vectors, largest gradient {float(brick.largest_gradient):.2g}"
        for path, brick in _prompts(model).items()
        if bool(brick.largest_gradient)
    ]


def idle(model: nn.Module) -> list[str]:
    """The prompt that never had a gradient."""
    return [f"{path}: had no gradient" for path, brick in _prompts(model).items() if not bool(brick.largest_gradient)]


def _prompts(model: nn.Module) -> dict[str, LearnedPrompt]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LearnedPrompt)}


@torch.no_grad()
def _initial(embedding: Embedding, config: Config, model: TrainableModel) -> Tensor:
    """The vectors at the start of a run. Shape: (length, width of the words)."""
    if config.initial == "normal":
        return torch.randn(config.length, embedding.word.width) * model.std_of("embedding.word")
    tokens = torch.randint(min(COMMON, embedding.word.size), (config.length,))
    return embedding.word.lookup(tokens.to(model.device)).float() * embedding.scale
