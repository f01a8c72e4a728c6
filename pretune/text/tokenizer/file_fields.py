"""The tables of the files beside a tokenizer: what becomes of each field, for `field_table.check_fields`."""

from __future__ import annotations

from collections.abc import Mapping

from pretune.field_table import FieldTable

TOKENIZER_TABLES: Mapping[str, FieldTable] = {}
"""By the name of the file."""
