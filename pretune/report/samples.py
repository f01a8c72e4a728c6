"""Samples of a finished model on held-out text, for its report."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from pretune.disk import replace_file
from pretune.draw import Draw
from pretune.evaluate.engine import encode_examples, predict_examples
from pretune.interop.run_names import FACTS
from pretune.seals import changing, read_facts
from pretune.tasks.classification import ClassificationExample
from pretune.tasks.shared.predictions import prediction_fields
from pretune.tasks.shared.written_texts import GenerationExample
from pretune.text.store.store import TokenSplit, TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pretune.model import Model
    from pretune.train.recipe import Recipe

Examples = Sequence[ClassificationExample] | Sequence[GenerationExample]
FILE = "samples.json"
COUNT = 6
_SENTENCE = (8, 40)  # tokens of a sentence that gets a mask
_PROMPT, _CONTINUATION = 16, 48  # tokens


class Sample(TypedDict):
    """A prompt and the model's output, with what was true where that is known.

    Attributes:
        label: of a text that was labelled, or a text that would have been right.
        word: that was masked.
    """

    prompt: str
    output: str
    label: NotRequired[str | None]
    word: NotRequired[str]


def write_samples(run: Path, model: Model, recipe: Recipe, examples: Examples = ()) -> None:
    """Samples a model on what it was trained for, and writes the samples into its run directory.

    Args:
        examples: of a task that labels texts, or writes them.
    """
    facts = read_facts(run / FACTS)
    samples = draw_samples(model, recipe, set(facts.get("abilities", {}).values()), examples)
    with changing(run, [FILE]):
        replace_file(run / FILE, json.dumps(samples, ensure_ascii=False, indent=2).encode())


def draw_samples(model: Model, recipe: Recipe, abilities: Collection[str], examples: Examples = ()) -> list[Sample]:
    """Samples on texts chosen by key from the held-out split, or from the training split if nothing is held out.

    Args:
        abilities: what the model was trained for: `fill`, `generate`, `classify`, `write`.
        examples: of a task that labels texts, or writes them.
    """
    draw = Draw(recipe.seed).at("report")
    if recipe.task:
        labelled = [example for example in examples if isinstance(example, ClassificationExample)]
        sources = [example for example in examples if isinstance(example, GenerationExample)]
        out = labellings(model, draw, labelled) if "classify" in abilities and labelled else []
        return out + (writings(model, draw, sources) if "write" in abilities and sources else [])
    store = TokenStore.open(recipe.data.stores[0])
    held = store.split("validation")
    split = held if held.document_count else store.split("train")
    out = []
    if "fill" in abilities:
        out += fills(model, split, draw)
    if "generate" in abilities:
        out += continuations(model, split, draw)
    return out


def fills(model: Model, split: TokenSplit, draw: Draw) -> list[Sample]:
    """Masks one whole word in sentences and returns the most probable words for it."""
    out: list[Sample] = []
    for number, tokens in enumerate(_sentences(split, draw)):
        position = _whole_word(model, tokens, draw.at("place", number))
        if position is None:
            continue
        prompt, hidden = masked_text(model.tokenizer, tokens, position)
        guesses = model.fill(prompt, top=4)[0]
        words = ", ".join(f"“{guess.token}” {guess.probability:.2f}" for guess in guesses)
        out.append({"prompt": prompt, "output": words, "word": hidden})
        if len(out) == COUNT:
            break
    return out


def continuations(model: Model, split: TokenSplit, draw: Draw) -> list[Sample]:
    """Continues beginnings of documents; by sampling, since greedy text of a small model repeats itself."""
    offsets = split.document_offsets
    long = np.flatnonzero(np.diff(offsets) > 2 * _PROMPT)
    chosen = long[np.argsort(draw.bits(long))[:COUNT]]
    starts = offsets[chosen].tolist()
    prompts = [model.tokenizer.decode(split.read(start, start + _PROMPT)) for start in starts]
    texts = model.generate(
        prompts, max_new_tokens=_CONTINUATION, temperature=0.8, top_p=0.95, seed=draw.key & 0x7FFFFFFF
    )
    return [{"prompt": prompt, "output": text} for prompt, text in zip(prompts, texts, strict=True)]


def writings(model: Model, draw: Draw, examples: Sequence[GenerationExample]) -> list[Sample]:
    """Writes texts, and returns them beside those that would have been right."""
    order = np.argsort(draw.bits(np.arange(len(examples))))[:COUNT]
    chosen, task = [examples[n] for n in order.tolist()], model.task()
    rows = encode_examples(task, chosen, model.tokenizer, model.length)
    predictions = predict_examples(model.network, task, chosen, rows, model.tokenizer)
    return [
        {"prompt": e.text, "output": str(prediction_fields(p).get("generated_text")), "label": e.target}
        for e, p in zip(chosen, predictions, strict=True)
    ]


def labellings(model: Model, draw: Draw, examples: Sequence[ClassificationExample]) -> list[Sample]:
    """Labels texts and returns the model's label beside the true one."""
    order = np.argsort(draw.bits(np.arange(len(examples))))[:COUNT]
    chosen = [examples[n] for n in order.tolist()]
    paired = any(example.second is not None for example in chosen)
    predictions = model.predict([e.text for e in chosen], [e.second or "" for e in chosen] if paired else None)
    return [
        {
            "prompt": f"{e.text} | {e.second}" if e.second else e.text,
            "output": f"{p.label} {p.probability:.2f}",
            "label": e.label,
        }
        for e, p in zip(chosen, predictions, strict=True)
    ]


def masked_text(tokenizer: Tokenizer, tokens: Sequence[int], position: int) -> tuple[str, str]:
    """Returns a text with a mask in place of one of its words, spaced as the text is, and that word."""
    decode, mask = tokenizer.decode, tokenizer.token(tokenizer.vocabulary.mask or 0)
    whole, before, after = decode(tokens), decode(tokens[:position]), decode(tokens[: position + 1])
    if whole.startswith(after) and after.startswith(before):
        word = after[len(before) :]
        text = f"{before}{word[: len(word) - len(word.lstrip())]}{mask}{whole[len(after) :]}"
    else:
        word = decode(tokens[position : position + 1])
        text = f"{before} {mask} {decode(tokens[position + 1 :])}"
    is_spaced = tokenizer.layout["model"]["type"] == "WordPiece"  # its decoder puts a space around every sign
    return (join_signs(text) if is_spaced else text).strip(), word.strip()


def join_signs(text: str) -> str:
    """Takes out the spaces that decoding puts around the signs of a text in Latin letters, as its writer would."""
    for pattern, joined in _SIGNS:
        text = pattern.sub(joined, text)
    return text


_SIGNS = (
    (re.compile(r"(?<=\w) (['’]) ?(?=(?:s|t|re|ve|m|ll|d)\b)"), r"\1"),
    (re.compile(r" +(?=[,.;:!?)\]}”’%…])"), ""),
    (re.compile(r"(?<=[(\[{“‘]) +"), ""),
    (re.compile(r"(?<=\w) - (?=\w)"), "-"),
)


def _sentences(split: TokenSplit, draw: Draw) -> Iterator[Sequence[int]]:
    """Yields sentences of medium length in an order given by the key, without a document's end token."""
    starts = split.sentence_offsets
    ends = np.append(starts[1:], split.token_count)
    last = np.isin(ends, split.document_offsets)
    sizes = ends - starts - last
    fit = np.flatnonzero((sizes >= _SENTENCE[0]) & (sizes <= _SENTENCE[1]))
    for n in fit[np.argsort(draw.bits(fit))].tolist():
        yield split.read(int(starts[n]), int(starts[n] + sizes[n])).tolist()


def _whole_word(model: Model, tokens: Sequence[int], draw: Draw) -> int | None:
    """Returns the position of a token that is a whole word of letters, or None."""
    continues = model.tokenizer.vocabulary.continuation
    whole = [
        n
        for n in range(1, len(tokens))
        if not continues[tokens[n]]
        and not (n + 1 < len(tokens) and continues[tokens[n + 1]])
        and model.tokenizer.decode([tokens[n]]).strip().isalpha()
    ]
    return whole[int(draw.below(0, len(whole)))] if whole else None
