"""Tables of fields: what is done, handed on, refused, without effect, and what stands in none."""

from __future__ import annotations

import pytest

from pretune import field_table
from pretune.errors import DataError, MissingInputError
from pretune.field_table import (
    CarriedFiles,
    check_fields,
    done,
    handed_on,
    handed_on_fields,
    no_effect,
    parse_json,
    read_file,
    refused,
)

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


def test_one_name_twice_in_an_object_is_refused():
    assert parse_json(b'{"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}', "c.json")["b"][1] == {"a": 2}
    with pytest.raises(DataError, match=r"c\.json: not valid JSON: the name 'b' stands 2 times in one object"):
        parse_json(b'{"a": {"b": 1, "c": 2, "b": 3}}', "c.json")


def test_how_much_one_file_may_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(field_table, "_CONTAINERS", 3)
    monkeypatch.setattr(field_table, "_VALUES", 2)
    assert parse_json(b'{"a": [[1, 2, 3]]}', "c.json") == {"a": [[1, 2, 3]]}
    for raw in (b'{"a": [[[]]]}', b'{"a": [1, 2, 3, 4]}'):
        with pytest.raises(DataError, match=r"c\.json: up to . lists and objects of . values, more than the 3 and 2"):
            parse_json(raw, "c.json")
    (tmp_path / "a").write_bytes(b"1234")
    assert read_file(tmp_path / "a", 4) == b"1234"
    with pytest.raises(DataError, match="a: 4 bytes, more than the 3 that such a file can need; it was not read"):
        read_file(tmp_path / "a", 3)
    with pytest.raises(MissingInputError, match="not a regular file"):
        read_file(tmp_path, 3)
