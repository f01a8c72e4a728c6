"""Seals JSON files with a digest of their own, so that a changed bit in what is finished is noticed on use.

A sealed JSON file holds an object whose last field, `sha256`, is that of the file without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretune.errors import DataError

DIGEST = "sha256"
"""The field of a sealed JSON file that holds the digest of all others."""


def sealed_json(tree: Mapping[str, Any]) -> bytes:
    """Returns a JSON file whose last field is the digest of all others; what JSON has no form for stands as text."""
    body = json.dumps({name: value for name, value in tree.items() if name != DIGEST}, indent=1, default=str)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body.removesuffix("}").rstrip()}{"," if len(body) > 2 else ""}\n "{DIGEST}": "{digest}"\n}}\n'.encode()


def parse_sealed(path: Path, raw: bytes, remedy: str) -> dict[str, Any]:
    """Reads a sealed JSON file, without its digest.

    Args:
        path: where the bytes come from, for messages.
        remedy: what to do about a file that was changed.

    Raises:
        DataError: a byte of it was changed, or it has no digest.
    """
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not JSON any more: it was damaged or edited; {remedy}") from None
    if not isinstance(tree, dict) or DIGEST not in tree:
        raise DataError(
            f"{path}: has no SHA-256 of its own: it was damaged or edited, or an older pretune wrote it; {remedy}"
        )
    if sealed_json(tree) != raw:
        raise DataError(
            f"{path}: does not match its own SHA-256: it was damaged or edited since it was written; {remedy}"
        )
    return {name: value for name, value in tree.items() if name != DIGEST}
