"""Write `README.md` of this folder from the figures in `results/`.

    python benchmarks/table.py

A file of results belongs to one kind of machine; figures of another lie beside it under another name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pairs import RESULTS

HEAD = """# Benchmarks

`make bench` runs all of them; `python benchmarks/NAME.py --help` tells what one compares. Ours and the peer do the same
work in processes of their own and take turns; a ratio is taken in each round, and the table has their median with the
smallest and the largest. Above 1 means that pretune is faster. The peer runs with the C library's own allocator
settings and with ours. Only real tokens count, never padding. `LOG.md` has dated experiments, with those that failed.

This file is written by `python benchmarks/table.py` from `results/`.
"""


def section(name: str, found: dict[str, Any]) -> str:
    """One file of results as Markdown."""
    machine, versions = found["machine"], found["versions"]
    where = f"{machine['cores']} cores {machine['cpu']}, {machine['capability']}"
    precision = f", {found['precision']}" if "precision" in found else ""
    lines = [
        f"## {name}",
        "",
        f"{found['date']}; {where}{precision}; {', '.join(f'{k} {v}' for k, v in versions.items())}.",
        "",
        "| work | against | ratio | smallest .. largest | ours | theirs | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        spread = f"{row['low']:.2f} .. {row['high']:.2f}"
        speeds = f"{row['ours']:,.0f} | {row['theirs']:,.0f} | {row['unit']}"
        lines.append(f"| {row['work']} | {row['peer']} | **{row['ratio']:.2f}** | {spread} | {speeds} |")
    return "\n".join([*lines, "", *limits(found)]) + "\n"


def limits(found: dict[str, Any]) -> list[str]:
    """What the machine itself could do in the same run, and the memory that it took."""
    lines = [f"- {work}: {fact(facts)}." for work, facts in found.get("facts", {}).items()]
    if "read_gbs" in found:
        share = found["weights_gbs"] / found["read_gbs"]
        lines.append(
            f"- Weights are read at {found['weights_gbs']:.1f} GB/s, {share:.0%} of a plain read's "
            f"{found['read_gbs']:.1f} GB/s."
        )
    return lines


def fact(facts: dict[str, Any]) -> str:
    """What a benchmark says of one work beside its ratios."""
    if "share_of_gemm_peak" in facts:
        peaks = facts["gemm_peak_gflops"]
        share = f"{facts['share_of_gemm_peak']:.0%} of the best matrix product of that format on the model's shapes"
        return f"{share} ({min(peaks)} .. {max(peaks)} GFLOP/s)"
    sides = {"ours": facts} if "peak_mb" in facts else facts
    return "at the peak " + ", ".join(f"{side} {found['peak_mb']:,.0f} MB" for side, found in sides.items())


def main() -> None:
    """Write the page."""
    files = sorted(RESULTS.glob("*.json"))
    parts = [section(file.stem, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    Path(__file__).with_name("README.md").write_text("\n".join([HEAD, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
