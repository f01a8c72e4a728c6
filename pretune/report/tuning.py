"""What a tuning method did to its model: what a run's proof says, as numbers, charts and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pretune.language import translate
from pretune.places import Place
from pretune.report.charts import Curve, draw
from pretune.report.html import alert, card, folded, is_number, note, phrase, section, tiles
from pretune.report.run_files import RunFiles
from pretune.wording import percent

_CURVES = 6  # colors that a chart has


def tuning(run: RunFiles) -> str:
    """Renders what the method changed, and by how much, of each adapter; nothing of a run that trained everything."""
    adapters = {name: _mapping(each, "proof") for name, each in _mapping(run.facts, "adapters").items()}
    parts = [_tuning(run, proof, name) for name, proof in (adapters or {"": _mapping(run.facts, "proof")}).items()]
    return section("What the tuning method changed", *parts)


def _tuning(run: RunFiles, proof: Mapping[str, Any], name: str) -> str:
    """Renders one proof, under the name of its adapter where there are several."""
    if not proof or proof.get("method") == "full":
        return ""
    charts = [_places(proof), _ranks(run)]
    cards = [card(chart) for chart in charts if chart]
    pair = f'<div class="pair">{"".join(cards)}</div>' if cards else ""
    title = f"<h3>{escape(name)}</h3>" if name else ""
    parts = [title, _idle(proof), _numbers(proof), pair, _digests(proof), _table(proof)]
    return "\n".join(part for part in parts if part)


def _idle(proof: Mapping[str, Any]) -> str:
    """Renders which parts did not act."""
    sentences = {
        "idle": "These parts of the method did not act:",
        "moved": "These tensors changed although they were frozen:",
        "early": "The best weights are from before these parts acted:",
    }
    return "".join(alert(sentence, found) for name, sentence in sentences.items() if (found := _names(proof, name)))


def _numbers(proof: Mapping[str, Any]) -> str:
    changes, unchanged = _mapping(proof, "changes"), _names(proof, "unchanged")
    cells = []
    if _is_finite(proof.get("share")):
        learned = f"{int(proof.get('learned', 0)):,}"
        cells.append((percent(float(proof["share"])), "of the parameters learned", learned))
    cells.append((f"{len(changes):,} / {len(changes) + len(unchanged):,}", "tensors that learned changed", ""))
    if frozen := int(proof.get("frozen", 0)):
        cells.append((f"{frozen:,}", "frozen tensors", "" if _names(proof, "moved") else "all as before"))
    if places := _mapping(proof, "places"):
        mean = float(np.mean([float(value) for value in places.values()]))
        cells.append((f"{mean:.2%}", "mean change of a matrix", "norm of the difference, relative to the base"))
    if ranks := _mapping(proof, "ranks"):
        values = [int(rank) for rank in ranks.values()]
        cells.append((f"{min(values)} .. {max(values)}", "ranks", f"{sum(values):,}"))
    return tiles(cells)


def _places(proof: Mapping[str, Any]) -> str:
    """Draws the change of each matrix over layers, or of each new tensor where matrices did not change."""
    places = {path: float(value) for path, value in _mapping(proof, "places").items() if _is_finite(value)}
    if places:
        return by_layer("Change of the matrix at each place, relative to the base", places)
    changes: dict[str, dict[str, Any]] = {n: c for n, c in _mapping(proof, "changes").items() if isinstance(c, dict)}
    norms = {name: float(change["norm"]) for name, change in changes.items() if _is_finite(change.get("norm"))}
    return by_layer("Norm of the difference of each tensor", norms)


def by_layer(title: str, values: Mapping[str, float]) -> str:
    """Draws values over layers, a curve for each role; nothing of fewer than two layers."""
    roles: dict[str, list[tuple[int, float]]] = {}
    for path, value in values.items():
        location = Place.of(path)
        if location.layer is not None:
            roles.setdefault(f"{location.side}{location.role}", []).append((location.layer + 1, value))
    curves = []
    for role, points in roles.items():
        x, y = np.asarray(sorted(points), dtype=np.float64).T
        curves.append(Curve(role, x, y, "dots"))
    largest = sorted(curves, key=lambda curve: -float(curve.y.max()))[:_CURVES]
    shown = [curve for curve in curves if any(curve is each for each in largest)]
    return draw(title, shown, "layer", floor=0.0) if any(len(curve.x) > 1 for curve in shown) else ""


def _ranks(run: RunFiles) -> str:
    """Draws the mean rank of each layer over the run."""
    names = run.names("rank/")
    curves = [Curve(name.removeprefix("rank/").replace(".", " "), *run.series(name)) for name in names]
    curves = [curve for curve in curves if len(curve.x) > 1]
    return draw("Rank by layer", curves, run.axis, floor=0.0) if curves else ""


def _digests(proof: Mapping[str, Any]) -> str:
    before, after = (str(proof.get(name, "")) for name in ("frozen_before", "frozen_after"))
    if not proof.get("frozen"):
        return ""
    if before == after:
        return note(f"The frozen weights are the same before and after the run: {before}")
    return note(f"The frozen weights differ: {before} before, {after} after the run")


def _table(proof: Mapping[str, Any]) -> str:
    """Renders every tensor that learned with how far it moved."""
    rows = []
    for name, change in _mapping(proof, "changes").items():
        values = change if isinstance(change, dict) else {}
        rows.append((name, _number(values.get("norm")), _number(values.get("relative"))))
    rows += [(name, translate("unchanged"), "") for name in _names(proof, "unchanged")]
    if not rows:
        return ""
    titles = ("tensor", "norm of the difference", "relative to its norm before")
    head = "".join(f"<th>{phrase(title)}</th>" for title in titles)
    cell = '<td class="number">{}</td>'
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(cell.format(escape(value)) for value in values)}</tr>"
        for name, *values in rows
    )
    return folded("Every tensor that learned", f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _number(value: object) -> str:
    return f"{float(str(value)):.4g}" if _is_finite(value) else ""


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(float(str(value)))


def _mapping(proof: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = proof.get(name) if isinstance(proof, Mapping) else None
    return value if isinstance(value, dict) else {}


def _names(proof: Mapping[str, Any], name: str) -> Sequence[str]:
    value = proof.get(name)
    return [str(each) for each in value] if isinstance(value, list) else []
