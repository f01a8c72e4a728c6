"""Tables of fields: what is done, handed on, refused, without effect, and what stands in none."""

from __future__ import annotations

import pytest

from pretune.errors import DataError
from pretune.field_table import CarriedFiles, check_fields, done, handed_on, handed_on_fields, no_effect, refused

TABLE = {
    "width": done("the layers"),
    "template": handed_on(types=(str,)),
    "rate": handed_on("is not done in training", types=(float,), note_unless=(None, 0.0)),
    "quantized": refused("quantized weights are not read", "save it without first"),
    "tokenizer.*": no_effect(),
}


def test_what_asks_for_nothing_passes_without_a_word():
    tree = {"width": 3, "template": "x", "rate": 0, "quantized": False, "tokenizer.pre": 1}
    assert check_fields("config.json", tree, TABLE) == []
    assert handed_on_fields(tree, TABLE) == {"template": "x", "rate": 0}


def test_refused_with_file_field_value_and_remedy():
    with pytest.raises(DataError, match=r"config.json: field 'quantized' = \{\"bits\": 4\}: .*; save it without first"):
        check_fields("config.json", {"quantized": {"bits": 4}}, TABLE)


def test_a_field_of_the_wrong_type_among_those_handed_on():
    with pytest.raises(DataError, match=r"c.json: field 'template' = 3: expected a text; correct the field"):
        check_fields("c.json", {"template": 3}, TABLE)
    with pytest.raises(DataError, match="'rate' = true: expected a number"):
        check_fields("c.json", {"rate": True}, TABLE)


def test_a_field_in_no_table_is_said_and_handed_on():
    tree = {"a": 1, "rate": 0.5}
    assert check_fields("c.json", tree, TABLE) == [
        "c.json: field 'rate' = 0.5: is not done in training",
        "c.json: field 'a' is not known here and is handed on unread",
    ]
    assert check_fields("c.json", dict.fromkeys("ab"), TABLE) == [
        "c.json: 2 fields 'a', 'b' are not known here and are handed on unread"
    ]
    assert handed_on_fields(tree, TABLE) == tree


def test_carried_files_are_written_as_they_were_read(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}\r\n")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "tools.jinja").write_bytes(b"{{ tools }}")
    files = CarriedFiles()
    files.read_whole(tmp_path, ["chat_template.jinja", "templates/*.jinja", "absent.txt"])
    (tmp_path / "out").mkdir()
    files.write(tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_bytes() == b"{{ messages }}\r\n"
    assert (tmp_path / "out" / "templates" / "tools.jinja").read_bytes() == b"{{ tools }}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chat_template.jinja", "templates"]
