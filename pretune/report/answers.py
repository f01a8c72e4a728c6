"""What a finished classifier answers on the validation data: scores by label, confusion matrix, mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pretune.language import translate
from pretune.report.html import card, folded, note, phrase, section
from pretune.report.run_files import RunFiles
from pretune.report.words import metric_name
from pretune.wording import counted

_MATRIX = 12  # labels of a confusion matrix at most; with more, the commonest confusions are listed
_PAIRS = 20
_OPEN = 30  # labels whose scores are shown without a click


def label_scores(run: RunFiles) -> str:
    """Renders the scores of each label, in the order of the labels, where a task has them."""
    newest = {name: run.saved(name) for name in run.names("eval/") if name.count("/") >= 2}
    labels = [str(label) for label in run.facts.get("labels") or ()]
    columns = [
        column
        for column in dict.fromkeys(name.split("/")[1] for name in newest)
        if labels and all(f"eval/{column}/{label}" in newest for label in labels)
    ]
    if not columns:
        return ""
    head = "".join(f'<th class="number">{phrase(metric_name(column))}</th>' for column in columns)
    rows = "".join(
        f"<tr><th>{escape(label)}</th>"
        + "".join(f'<td class="number">{_cell(column, newest[f"eval/{column}/{label}"])}</td>' for column in columns)
        + "</tr>"
        for label in labels
    )
    whole = f"<table><thead><tr><th>{phrase('label')}</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    table = card(whole) if len(labels) <= _OPEN else folded(f"Scores of all {len(labels):,} labels", whole)
    return section("Scores by label", table, note(run.validation_note))


def confusion(run: RunFiles) -> str:
    """Renders how often each label was answered for each: a matrix, or of many labels the commonest confusions."""
    labels, matrix = run.confusion
    if not labels:
        return ""
    if len(labels) > _MATRIX:
        return section("Commonest confusions", card(_pairs(labels, matrix)), _counted(run))
    head = "".join(f'<th class="number"><div>{escape(label)}</div></th>' for label in labels)
    rows = "".join(
        f"<tr><th><div>{escape(label)}</div></th>"
        + "".join(f'<td class="number{_shade(n == m, count)}">{count:,}</td>' for m, count in enumerate(matrix[n]))
        + "</tr>"
        for n, label in enumerate(labels)
    )
    corner = phrase("true ↓ predicted →")
    first = f"<thead><tr><th><div>{corner}</div></th>{head}</tr></thead>"
    whole = f'<table class="matrix">{first}<tbody>{rows}</tbody></table>'
    return section("Confusion matrix", card(whole), _counted(run))


def _counted(run: RunFiles) -> str:
    """Renders on how many texts answers were counted, where these are not all."""
    examples, total = run.validation.get("examples"), run.validation.get("of")
    if examples == total or not isinstance(examples, int) or not isinstance(total, int):
        return ""
    return note(f"Counted on {examples:,} of {total:,} validation texts, drawn by the seed of the run.")


def mistakes(run: RunFiles) -> str:
    """Renders the mistakes of which the model was most sure, with the texts as they were written."""
    listed = run.mistakes
    total = run.validation.get("mistake_count")
    examples = run.validation.get("examples")
    if not listed or not isinstance(total, int) or not isinstance(examples, int):
        return ""
    cells = "".join(_mistake(mistake) for mistake in listed)
    title = "The most confident mistakes" if total > len(listed) else "The mistakes, most confident first"
    count = f"{len(listed):,} of {counted(total, 'mistake')} on {counted(examples, 'validation text')}."
    return section(title, note(count), card(cells))


def _mistake(mistake: Mapping[str, Any]) -> str:
    texts = "\n".join(str(mistake[name]) for name in ("text", "second") if mistake.get(name))
    answer = translate(
        f"{mistake.get('prediction')} ({mistake.get('probability', 0):.2f}); true label: {mistake.get('label')}"
    )
    origin = f" · {mistake['origin']}" if mistake.get("origin") else ""
    return (
        f'<div class="sample"><div class="prompt">{escape(texts)}</div>'
        f'<div class="output">{escape(answer)}<small>{escape(origin)}</small></div></div>'
    )


def _pairs(labels: list[str], matrix: list[list[int]]) -> str:
    """Renders the most frequent pairs of a true label and another that was answered."""
    pairs = sorted(
        ((count, n, m) for n, row in enumerate(matrix) for m, count in enumerate(row) if n != m and count),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    rows = "".join(
        f"<tr><td>{escape(labels[n])}</td><td>{escape(labels[m])}</td>"
        f'<td class="number">{count:,} / {sum(matrix[n]):,}</td></tr>'
        for count, n, m in pairs[:_PAIRS]
    )
    head = "".join(f"<th>{phrase(title)}</th>" for title in ("true label", "predicted", "texts"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _shade(is_right: bool, count: int) -> str:
    return "" if not count else " hit" if is_right else " miss"


def _cell(column: str, value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if column == "count" else f"{value:.3f}"
