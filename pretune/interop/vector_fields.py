"""The tables of the files of `sentence-transformers`: what becomes of each field, for `field_table.check_fields`."""

from __future__ import annotations

from collections.abc import Mapping

from pretune.field_table import FieldTable

VECTOR_TABLES: Mapping[str, FieldTable] = {}
"""By the name of the file."""
