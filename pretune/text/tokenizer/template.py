"""The special tokens around a text, or around and between the two of a pair, as a tokenizer's files say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pretune.errors import DataError

TemplatePart = tuple[tuple[int, ...] | None, int]
"""Special tokens, or None for the place of a text; and their segment."""
Template = tuple[TemplatePart, ...]


def bert_templates(
    cls: Sequence[int], sep: Sequence[int], between: Sequence[int] | None = None, second: int = 1
) -> tuple[Template, Template]:
    """BERT's templates of a text and of a pair: `cls a sep` and `cls a sep b sep`.

    Args:
        between: what stands between the two of a pair; `sep` by default.
        second: segment of the second text and of what follows it.
    """
    middle = tuple(sep if between is None else between)
    single: Template = ((tuple(cls), 0), (None, 0), (tuple(sep), 0))
    return single, (*single[:2], (middle, 0), (None, second), (tuple(sep), second))


def read_templates(layout: Mapping[str, Any]) -> tuple[Template, Template] | None:
    """The templates of a text and of a pair that a parsed tokenizer.json asks for; None where it asks for none.

    Raises:
        DataError: a template that does not hold its texts once and in order, or names a token that it does not define.
    """
    processor = layout.get("post_processor")
    for step in reversed([] if processor is None else _flattened(processor)):
        if step["type"] == "TemplateProcessing":
            return _parse_template(step, "single", 1), _parse_template(step, "pair", 2)
        if step["type"] == "BertProcessing":
            return bert_templates([step["cls"][1]], [step["sep"][1]])
        if step["type"] == "RobertaProcessing":
            sep = step["sep"][1]
            return bert_templates([step["cls"][1]], [sep], [sep, sep], second=0)
    return None


def _flattened(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a post-processor, sequences in sequences too."""
    inner = step.get("processors")
    return [step] if inner is None else [each for part in inner for each in _flattened(part)]


def split_template(template: Template) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before and after the text of a template that has one."""
    text_index = next(n for n, (tokens, _) in enumerate(template) if tokens is None)
    before, after = (
        [t for tokens, _ in part for t in tokens or ()] for part in (template[:text_index], template[text_index + 1 :])
    )
    return tuple(before), tuple(after)


def without_segments(template: Template, count: int) -> Template:
    """A template for a model with `count` segments: one that it lacks becomes the last that it has."""
    return tuple((tokens, min(segment, max(count - 1, 0))) for tokens, segment in template)


def plain_template(template: Template) -> Template:
    """A template without parts that hold no tokens, so that equal templates compare equal."""
    return tuple((tokens, segment) for tokens, segment in template if tokens is None or tokens)


def template_processor(templates: tuple[Template, Template], names: Sequence[str | None]) -> dict[str, Any]:
    """The step of a tokenizer.json's `post_processor` that asks for the templates of a text and of a pair.

    Args:
        names: the string of each id.
    """
    used = sorted({token for template in templates for tokens, _ in template for token in tokens or ()})
    special = {str(names[n]): {"id": str(names[n]), "ids": [n], "tokens": [str(names[n])]} for n in used}
    return {
        "type": "TemplateProcessing",
        "single": _parts(templates[0], names),
        "pair": _parts(templates[1], names),
        "special_tokens": special,
    }


def _parts(template: Template, names: Sequence[str | None]) -> list[dict[str, Any]]:
    texts = iter("AB")
    parts: list[dict[str, Any]] = []
    for tokens, segment in template:
        if tokens is None:
            parts.append({"Sequence": {"id": next(texts), "type_id": segment}})
        parts += [{"SpecialToken": {"id": str(names[token]), "type_id": segment}} for token in tokens or ()]
    return parts


def _parse_template(step: Mapping[str, Any], name: str, texts: int) -> Template:
    defined = step["special_tokens"]
    template: list[TemplatePart] = []
    text_ids: list[str] = []
    for part in step[name]:
        if "Sequence" in part:
            text_ids.append(part["Sequence"]["id"])
            template.append((None, part["Sequence"]["type_id"]))
        else:
            token = part["SpecialToken"]
            if token["id"] not in defined:
                raise DataError(f"post_processor: the template names {token['id']!r} without saying which id it has")
            template.append((tuple(defined[token["id"]]["ids"]), token["type_id"]))
    if text_ids != ["A", "B"][:texts]:
        raise DataError(f"post_processor: the template of a {name} holds the texts {text_ids}, expected A, then B")
    return tuple(template)
