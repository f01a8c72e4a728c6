"""Renders what a compression did, from `compression.json`: size, speed and scores before and after, error by layer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from pretune.disk import replace_file
from pretune.errors import DataError
from pretune.language import translate
from pretune.report.html import alert, card, folded, is_number, note, page, phrase, section, short, table, text, tiles
from pretune.report.pages import check_page
from pretune.report.pages import write_page as write_elsewhere
from pretune.report.tuning import by_layer
from pretune.report.words import metric_name
from pretune.report.words import score as score_text
from pretune.seals import changing

RECORD, PAGE = "compression.json", "report.html"
_ERROR = "error"


def is_compression(folder: Path) -> bool:
    """Whether a folder holds the result of a compression."""
    return (folder / RECORD).is_file()


def write_page(folder: Path, output: Path | None = None) -> Path:
    """Writes the page of a compression, whole or not at all.

    Args:
        output: where to; by default `report.html` in the folder.

    Raises:
        DataError: `compression.json` is damaged.
        CannotCreateError: `output` is something else than a page.
    """
    record = read_record(folder)
    try:
        content = render(record)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"{folder / RECORD}: {type(error).__name__}: {str(error)[:200]}: it was damaged or edited; compress again"
        ) from None
    if output is not None and output.resolve() != (folder / PAGE).resolve():
        check_page(output, PAGE)
        write_elsewhere(output, content)
        return output
    with changing(folder, [PAGE]):
        replace_file(folder / PAGE, content.encode())
    return folder / PAGE


def read_record(folder: Path) -> dict[str, Any]:
    """Reads `compression.json`.

    Raises:
        DataError: it is damaged, or of another version.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not JSON any more: it was damaged or edited; compress again") from None
    if not isinstance(record, dict) or not isinstance(record.get("steps"), list):
        raise DataError(f"{path}: field 'steps' is missing: it was damaged or edited; compress again")
    if record.get("version") != 1:
        version = record.get("version")
        raise DataError(f"{path}: field 'version' = {version!r}: another pretune wrote it; this one reads version 1")
    return record


def comparison(record: Mapping[str, Any], *, is_brief: bool = False) -> list[tuple[str, str, str, str]]:
    """What was measured: name, before, after, change.

    Args:
        is_brief: scores of single labels are left out.
    """
    before, after = _tree(record, "before"), _tree(record, "after")
    rows = [("size of the weights", *_pair(before, after, "bytes", _size, "x"))]
    rows.append(("weights", *_pair(before, after, "weights", _count, "x")))
    rows.append(("operations a token", *_pair(before, after, "operations", short, "x")))
    if isinstance(speed := record.get("speed"), dict):
        ratio = f"{float(speed['ratio']):.2f} x"
        rows.append(("tokens a second", _count(speed["before"]), _count(speed["after"]), ratio))
    first, second = _tree(before, "scores"), _tree(after, "scores")
    left_out = ("predictions/", "count/", *(("precision/", "recall/", "f1/") if is_brief else ()))
    for name in [name for name in first if name in second and not name.startswith(left_out)]:
        a, b = float(first[name]), float(second[name])
        if name.startswith("perplexity/"):
            rows.append((metric_name(name), f"{a:.3f}", f"{b:.3f}", f"{b / a - 1:+.2%}"))
        elif score_text(name, a).endswith("%"):
            rows.append((metric_name(name), score_text(name, a), score_text(name, b), f"{100 * (b - a):+.2f} points"))
        else:
            rows.append((metric_name(name), f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"))
    return [row for row in rows if row[1]]


def render(record: Mapping[str, Any]) -> str:
    """Renders the page."""
    steps = [step for step in record["steps"] if isinstance(step, dict)]
    methods = " | ".join(str(step.get("method", "")) for step in steps)
    title = f"{Path(str(record.get('model', ''))).name} · {methods} · pretune"
    head = f"<h1>{escape(methods)}</h1><p>{phrase('Made from')} {escape(str(record.get('model', '')))}</p>"
    warned = [line for step in steps for line in step.get("notes", []) if str(line).startswith("warning:")]
    warnings = alert("Before you rely on it:", [str(line) for line in warned]) if warned else ""
    return page(title, [head, warnings, _tiles(record), _comparison(record), *map(_step, steps), _recipe(record)])


def _tiles(record: Mapping[str, Any]) -> str:
    """Renders the numbers that matter most."""
    before, after = _tree(record, "before"), _tree(record, "after")
    cells = []
    if before.get("bytes") and after.get("bytes"):
        share = float(after["bytes"]) / float(before["bytes"])
        cells.append((f"{share:.2f}", "of the size", f"{_size(before['bytes'])} → {_size(after['bytes'])}"))
    if isinstance(speed := record.get("speed"), dict):
        cells.append((f"{float(speed['ratio']):.2f} x", "as fast", str(speed.get("work", ""))))
    first, second = _tree(before, "scores"), _tree(after, "scores")
    for name in [name for name in first if name in second][:12]:
        a, b = float(first[name]), float(second[name])
        if name.startswith("perplexity/"):
            cells.append((f"{b / a - 1:+.2%}", metric_name(name), f"{a:.2f} → {b:.2f}"))
        elif name == "accuracy":
            cells.append((f"{100 * (b - a):+.2f}", "points of accuracy", f"{a:.1%} → {b:.1%}"))
    return tiles(cells)


def _comparison(record: Mapping[str, Any]) -> str:
    """Renders everything that was measured, before and after."""
    titles = "".join(f"<th>{phrase(title) if title else ''}</th>" for title in ("", "before", "after", "change"))
    cell = '<td class="number">{}</td>'
    body = "".join(
        f"<tr><th>{phrase(name)}</th>{''.join(cell.format(escape(value)) for value in values)}</tr>"
        for name, *values in comparison(record)
    )
    missing = (
        ""
        if _tree(_tree(record, "after"), "scores")
        else note("No held-out data were named, so that the cost in quality is unknown: --evaluate names some.")
    )
    whole = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return section("Before and after", card(whole), missing)


def _step(step: Mapping[str, Any]) -> str:
    """Renders what a step did, with the error of each place by layer."""
    places: dict[str, Mapping[str, Any]] = {
        path: facts for path, facts in _tree(step, "places").items() if isinstance(facts, dict)
    }
    errors = _values(places, _ERROR)
    chart = by_layer("Relative output error of each place, on the calibration data", errors)
    if not chart:
        chart = by_layer("Relative error of each matrix", _values(places, "weight_error"))
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in step.get("notes", []))
    training = _tree(step, "training")
    return section(
        str(step.get("method", "")),
        card(chart),
        card(f"<ul>{lines}</ul>") if lines else "",
        _places(places),
        folded("Settings of this step", table(_tree(step, "config"))) if _tree(step, "config") else "",
        folded("The training that followed", table(training)) if training else "",
    )


def _values(places: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    """A number of each place that has it."""
    return {
        path: float(facts[name])
        for path, facts in places.items()
        if is_number(facts.get(name)) and math.isfinite(float(facts[name]))
    }


def _places(places: Mapping[str, Mapping[str, Any]]) -> str:
    """Renders every place with what was recorded of it."""
    names = list(dict.fromkeys(name for facts in places.values() for name in facts))
    if not names:
        return ""
    head = "".join(f"<th>{escape(translate(name.replace('_', ' ')))}</th>" for name in ["place", *names])
    cell = '<td class="number">{}</td>'
    body = "".join(
        f"<tr><th>{escape(path)}</th>{''.join(cell.format(escape(text(facts.get(name, '')))) for name in names)}</tr>"
        for path, facts in places.items()
    )
    return folded("Every place", f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _recipe(record: Mapping[str, Any]) -> str:
    recipe = json.dumps(record.get("recipe", {}), ensure_ascii=False, indent=1)
    return section("Configuration", folded("Every field of the compression", f"<pre>{escape(recipe)}</pre>"))


def _pair(
    before: Mapping[str, Any], after: Mapping[str, Any], name: str, render_value: Callable[[float], str], unit: str
) -> tuple[str, str, str]:
    """A number before and after, and their ratio; empty where it is not known."""
    a, b = before.get(name), after.get(name)
    if not is_number(a) or not is_number(b) or not a:
        return "", "", ""
    first, second = float(str(a)), float(str(b))
    return render_value(first), render_value(second), f"{second / first:.2f} {unit}"


def _size(value: float) -> str:
    return f"{float(value) / 1e6:,.1f} MB" if value >= 1e5 else f"{float(value) / 1e3:,.1f} kB"


def _count(value: float) -> str:
    return f"{float(value):,.0f}"


def _tree(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}
