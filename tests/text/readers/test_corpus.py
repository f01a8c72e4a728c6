"""Every format gives its documents; nothing is lost silently; whatever is wrong is named with file and line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import random
import tracemalloc
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretune.errors import DataError
from pretune.text.readers import lines
from pretune.text.readers.corpus import CorpusConfig, DataStats, Document, read_corpus

DATA = Path(os.environ.get("PRETUNE_DATA", Path(__file__).parents[4] / "shared" / "data"))


def read(path: Path | str, stats: DataStats | None = None, **settings: object) -> list[Document]:
    return list(read_corpus(path, CorpusConfig.model_validate(settings), stats))


def texts(path: Path, **settings: object) -> list[str]:
    return [document.text for document in read(path, **settings)]


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def packed(path: Path, suffix: str) -> Path:
    data, out = path.read_bytes(), path.with_name(path.name + suffix)
    out.write_bytes(gzip.compress(data, 1) if suffix == ".gz" else pa.compress(data, "zstd", asbytes=True))
    return out


def refused(path: Path, words: str, **settings: object) -> None:
    """Strict reading stops with the words; lenient reading counts one fault and goes on to the next file."""
    with pytest.raises(DataError, match=words) as caught:
        read(path, **settings)
    assert str(path) in str(caught.value)
    stats = DataStats()
    good = write(path.parent / "good.txt", "good")
    config = CorpusConfig.model_validate({"on_error": "skip", **settings})
    assert "good" in [d.text for d in read_corpus([path, good], config, stats)]
    stats.check()
    assert stats.quarantined == 1
    assert str(path) in str(stats.quarantine[0])


# --- what is read


def test_blank_lines_part_documents_and_lines_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\r\n\n one\ntwo \n \t\n\n\nthree\r\nfour\n   indented\n\nfive\n  ")
    actual = read(path)
    assert [(d.text, d.line) for d in actual] == [(" one\ntwo", 3), ("three\nfour\n   indented", 8), ("five", 12)]
    assert {(d.domain, d.source) for d in actual} == {("a", str(path))}


def test_lines_and_whole_files_can_be_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n\n  \ntwo\u2028still two\n")
    stats = DataStats()
    assert [(d.text, d.line) for d in read(path, stats, documents="line")] == [("one", 1), ("two\u2028still two", 4)]
    assert (stats.documents, stats.used, stats.empty) == (4, 2, 2)
    assert texts(path, documents="file") == ["one\n\n  \ntwo\u2028still two"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("documents", ["blank-line", "line", "file"])
def test_where_chunks_end_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, documents: str
) -> None:
    draw = random.Random(chunk)
    body = "".join(draw.choice(["a", "字", " ", "\n", "\n\n", "\r\n", "\t"]) for _ in range(3000))
    path = write(tmp_path / "a.txt", body)
    whole = read(path, documents=documents)
    monkeypatch.setattr(lines, "CHUNK", chunk)
    assert read(path, documents=documents) == whole
    assert "".join("".join(d.text for d in whole).split()) == "".join(body.split())


def test_json_lines_bring_their_domain(tmp_path: Path) -> None:
    rows = [{"text": "one", "domain": "news"}, {"text": "二", "domain": None}, {"n": 1, "text": "\u2028 three"}]
    path = write(tmp_path / "x/a.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    stats = DataStats()
    actual = read(tmp_path, stats)
    assert [(d.text, d.domain, d.line) for d in actual] == [
        ("one", "news", 1),
        ("二", "x", 2),
        ("\u2028 three", "x", 3),
    ]
    assert (stats.documents, stats.empty, stats.bytes) == (4, 1, 3 + 3 + 9)
    assert texts(write(path, '{"body": "c", "inner": {"body": "b"}}'), text="body") == ["c"]
    with pytest.raises(DataError, match=r"a\.jsonl:1: field 'body' is there twice; leave one of the two out"):
        texts(write(path, '{"body": "b", "body": "c"}'), text="body")


def test_csv_quotes_and_tsv_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text,domain\n1,"a ""b"", c\nnext",x\n\n2,plain "word",\n')
    assert [(d.text, d.domain, d.line) for d in read(path)] == [('a "b", c\nnext', "x", 2), ('plain "word"', "a", 5)]
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"open quote\t1\n5" disk\t0\n')
    assert texts(path) == ['"open quote', '5" disk']
    assert texts(write(path, 'text\tlabel\n"a\tb"\t1\n'), quotes=True) == ["a\tb"]
    assert texts(write(path, "0\tone\n1\ttwo\n"), columns=("label", "text")) == ["one", "two"]
    assert texts(write(path, "label\ttext\n1\ttwo\n"), columns=("label", "text")) == ["two"]


def test_a_tsv_of_csv_writer_loses_its_quotes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The quotes of `csv.writer` and pandas stayed in the text, without a word."""
    rows = ['she said "yes"', "plain", '"all of it"', "a, b"]
    path = tmp_path / "a.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["text", "label"], *([row, "1"] for row in rows)])
    with caplog.at_level("INFO"):
        assert texts(path) == rows
    assert "fields are quoted, and read without their quotes" in caplog.text
    assert texts(path, quotes=False)[0] == '"she said ""yes"""'
    pd.DataFrame({"text": [*rows, "tab\tinside"], "label": 1}).to_csv(path, sep="\t", index=False)
    assert texts(path) == [*rows, "tab\tinside"]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([["text", "label"], ["one", "1"]])
    assert texts(path) == ["one"]


def test_a_tsv_that_quotes_all_but_numbers_loses_its_quotes(tmp_path: Path) -> None:
    """The header was read with its quotes, so that there was no column of the text."""
    rows = ['she said "yes"', "plain", "tab\tinside"]
    path = tmp_path / "a.tsv"
    pd.DataFrame({"text": rows, "score": [1.5, -2e-9, 3.0]}).to_csv(
        path, sep="\t", index=False, quoting=csv.QUOTE_NONNUMERIC
    )
    assert path.read_text().startswith('"text"\t"score"\n"she said ""yes"""\t1.5\n')
    assert texts(path) == rows
    path = write(path, '"text"\t"label"\n"one"\tNA\n')
    with pytest.raises(DataError, match=r"a\.tsv:1: no column 'text'; set --quotes true if fields are quoted"):
        texts(path)
    assert texts(path, quotes=True) == ["one"]


def test_a_tsv_with_quotes_of_both_kinds_keeps_them_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"she said ""yes"""\t1\n5" disk\t0\n')
    assert texts(path) == ['"she said ""yes"""', '5" disk']
    assert "1 lines have fields that look quoted (line 2), others have plain quotes" in caplog.text


def test_parquet_rows(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "", "三"] * 100, "domain": ["x", "y", None] * 100, "n": range(300)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    stats = DataStats()
    actual = read(tmp_path / "a.parquet", stats)
    assert [(d.text, d.domain, d.line) for d in actual[:2]] == [("one", "x", 1), ("三", "a", 3)]
    assert [d.line for d in actual] == [row for row in range(1, 301) if row % 3 != 2]
    assert (stats.documents, stats.used, stats.empty) == (300, 200, 100)
    pq.write_table(
        table.drop_columns(["domain"]).cast(pa.schema([("text", pa.large_string()), ("n", pa.int64())])),
        tmp_path / "b.parquet",
    )
    assert len(texts(tmp_path / "b.parquet")) == 200
    pq.write_table(pa.table({"text": ["short", "字" * 34]}), tmp_path / "c.parquet")
    assert texts(tmp_path / "c.parquet", max_document_bytes=101, on_error="skip") == ["short"]
    assert len(texts(tmp_path / "c.parquet", max_document_bytes=102)) == 2


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("format", ["txt", "jsonl", "csv", "tsv", "parquet"])
def test_every_format_also_compressed(tmp_path: Path, format: str, suffix: str) -> None:
    plain = tmp_path / f"a.{format}"
    if format == "parquet":
        pq.write_table(pa.table({"text": ["one", "two"]}), plain)
    else:
        write(plain, {"txt": "one\n\ntwo", "jsonl": '{"text": "one"}\n{"text": "two"}'}.get(format, "text\none\ntwo\n"))
    actual = read(packed(plain, suffix))
    assert [(d.text, d.domain) for d in actual] == [("one", "a"), ("two", "a")]


def test_order_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.jsonl", "a/c.txt"):
        write(tmp_path / name, f'{{"text": "{name}"}}')
    once = [d.source for d in read(tmp_path)]
    assert once == [str(tmp_path / name) for name in ("b.txt", "a/c.txt", "a/z.jsonl")]


def test_utf8_bom_is_dropped(tmp_path: Path) -> None:
    for name, body in (("a.txt", "one"), ("a.jsonl", '{"text": "one"}'), ("a.csv", "text\none\n")):
        assert texts(write(tmp_path / name, b"\xef\xbb\xbf" + body.encode())) == ["one"]


# --- what is refused


@pytest.mark.parametrize("body", [b"", b" \n\t\r\n\n", b"\xef\xbb\xbf", "\u3000\n".encode()])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_corpus_without_text_is_refused(tmp_path: Path, name: str, body: bytes) -> None:
    if name == "a.jsonl" and body.startswith(b"\xe3"):
        body = b'{"text": " "}\n{"text": ""}'
    with pytest.raises(DataError, match=r"no text in 1 file |no column") as caught:
        read(write(tmp_path / name, body))
    assert caught.value.code == 65


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file here that can be read; known suffixes: .*\.txt"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        (
            "a.txt",
            b"\xef\xbb\xbfgood\n\nbad \xff byte\n",
            r"a\.txt:3: not UTF-8: .* 0xff at byte 5 of the line \(byte 13 of the file\)",
        ),
        ("a.txt", b"cut \xe4\xb8", r"a\.txt:1: not UTF-8: unexpected end of data"),
        ("a.txt", b"sur\xed\xa0\x80rogate", r"a\.txt:1: not UTF-8"),
        ("a.txt", b"x\ny\0z", r"a\.txt:2: NUL character at byte 2 of the line \(byte 3 of the file\)"),
        ("a.txt", "text".encode("utf-16"), r"a\.txt: is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
        ("a.txt", "text".encode("utf-16-le"), r"a\.txt:1: NUL .*UTF-16"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b', r"a\.jsonl:2: not JSON: Unterminated string .* at character 10"),
        ("a.jsonl", b'{"text": 5}', r"a\.jsonl:1: field 'text' holds the number 5, not text"),
        ("a.jsonl", b'{"text": null}', r"a\.jsonl:1: field 'text' holds null"),
        ("a.jsonl", b'{"text": ["a"]}', r"a\.jsonl:1: field 'text' holds the list"),
        ("a.jsonl", b'{"text": "a", "domain": 1}', r"a\.jsonl:1: field 'domain' holds the number 1"),
        ("a.jsonl", b'{"txt": "a"}', r"a\.jsonl:1: no field 'text'; name the field .*--text .* did you mean 'txt'"),
        ("a.jsonl", b'"text"', r"a\.jsonl:1: holds .* not an object"),
        ("a.jsonl", b'[{"text": "a"}]', r"a\.jsonl:1: holds a JSON array, .*jq -c"),
        ("a.jsonl", b'{"text": "a"}{"text": "b"}', r"a\.jsonl:1: not JSON: Extra data"),
        ("a.jsonl", b'{"text": "a\\u0000b"}', r"a\.jsonl:1: field 'text' holds a NUL"),
        ("a.jsonl", b'{"text": "a\\ud800b"}', r"a\.jsonl:1: field 'text' holds half a surrogate pair \(\\ud800\)"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"a\.jsonl:1: not usable JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"a\.jsonl:1: not usable JSON: nested too deep"),
        ("a.csv", b"id,test\n1,a\n", r"a\.csv:1: no column 'text'; .* did you mean 'test'"),
        ("a.csv", b"text,text\n1,a\n", r"a\.csv:1: two columns are called 'text'"),
        ("a.csv", b"id,text\n1,a,b\n2,c\n", r"a\.csv:2: 3 fields where the header has 2: '1,a,b'"),
        ("a.csv", b"id,text\n1\n2,c\n", r"a\.csv:2: 1 fields where the header has 2"),
        ("a.csv", b'id,text\n1,"a" b\n2,c\n', r"a\.csv:2: broken quotes: .*--quotes false"),
        ("a.csv", b'id,text\n1,"a\n2,c\n3,d\n', r"a\.csv:2: broken quotes: a quote is not closed before the end"),
        ("a.parquet", b"PAR1 nothing", r"a\.parquet: not a readable Parquet file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9],
            r"a\.jsonl\.gz.*: corrupt or cut-off gzip data",
        ),
        ("a.txt.zst", b"plain", r"a\.txt\.zst:1: corrupt or cut-off zstd data"),
        ("a.parquet.gz", b"plain", r"a\.parquet\.gz: not a readable Parquet file: corrupt"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, name: str, body: bytes, words: str) -> None:
    refused(write(tmp_path / name, body), words)


def test_parquet_of_the_wrong_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"txt": ["a"]}), path)
    refused(path, r"a\.parquet: no column 'text'; .* did you mean 'txt'")
    pq.write_table(pa.table({"text": [5]}), path)
    refused(path, r"a\.parquet:1: field 'text' holds the number 5")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"text": bad}), path)
    refused(path, r"a\.parquet:1: field 'text' holds bytes")
    pq.write_table(pa.table({"text": ["ok"] * 9}), path)
    damaged = bytearray(path.read_bytes())
    damaged[4:24] = bytes(20)
    refused(write(path, bytes(damaged)), r"a\.parquet.*: not a readable Parquet file")


PIECES = [
    b'"',
    b'""',
    b",",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"{",
    b'{"text": "a"}',
    b"text",
    b"\xff",
    b"\0",
    b"\xe5\xad\x97",
    b" ",
]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.txt.gz", "a.jsonl.zst"])
def test_no_bytes_whatever_break_the_statistics(tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    for _ in range(150):
        body = b"".join(draw.choices(PIECES, k=draw.randrange(60)))
        path = write(tmp_path / name, b"text,n\n" + body if ".csv" in name else body)
        for settings in ({}, {"documents": "line", "max_document_bytes": 9, "quotes": True}):
            stats = DataStats()
            with contextlib.suppress(DataError):
                read(path, stats, on_error="skip", **settings)
            stats.check()
            assert len(stats.quarantine) == stats.quarantined
            assert all(str(path) in str(fault) for fault in stats.quarantine)
            if name == "a.txt" and settings:
                assert stats.documents == body.count(b"\n") + (not body.endswith(b"\n") and body != b"")


def test_skipping_leaves_out_the_bad_document_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\n\ntwo\n\xff\nstill two\n\nthree\n\n\xfe\n\nfour")
    stats = DataStats()
    assert [(d.text, d.line) for d in read(path, stats, on_error="skip")] == [("one", 1), ("three", 7), ("four", 11)]
    assert [fault.line for fault in stats.quarantine] == [4, 9]
    assert texts(path, on_error="skip", documents="line") == ["one", "two", "still two", "three", "four"]


def test_skipping_reads_on_behind_a_broken_quote(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text,n\n"open,1\nb,2\n"c\nd",3\n\xff,4\ne,5\n"f\n\xff\ng",6\nh,7\n')
    stats = DataStats()
    assert [d.text for d in read(path, stats, on_error="skip")] == ["b", "c\nd", "e", 'g"', "h"]
    stats.check()
    assert [fault.line for fault in stats.quarantine] == [2, 6, 8, 9]


@pytest.mark.parametrize(
    "name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", pytest.param("a.jsonl.gz", marks=pytest.mark.slow), "a.jsonl.zst"]
)
def test_a_line_of_100_mb_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    plain = tmp_path / name.removesuffix(".gz").removesuffix(".zst")
    size = 1 << 20
    with plain.open("wb") as out:
        out.write(b"text\n" if ".csv" in name or ".tsv" in name else b"")
        for _ in range(100_000_000 // size):
            out.write(os.urandom(size // 2).hex().encode())
        out.write(b'\n{"text": "after"}\n' if "jsonl" in name else b"\n\nafter\n")
    path = plain if plain.name == name else packed(plain, Path(name).suffix)
    stats = DataStats()
    tracemalloc.start()
    actual = read(path, stats, on_error="skip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = 2 if plain.suffix in (".csv", ".tsv") else 1
    assert [(d.text, d.line) for d in actual] == [("after", line + (1 if "jsonl" in name else 2))]
    assert [(f.line, f.reason) for f in stats.quarantine] == [(line, "record longer than 16777216 bytes")]
    assert peak < 3 * (16 << 20), f"{peak >> 20} MiB"


def test_documents_of_many_lines_are_bounded_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x" * 50 + "\n" + "y" * 60 + "\n\nsmall\n")
    for documents in ("blank-line", "file"):
        with pytest.raises(
            DataError, match=r"a\.txt:1: record longer than 100 bytes; split it, or raise --max-document"
        ):
            read(path, documents=documents, max_document_bytes=100)
    assert texts(path, max_document_bytes=100, on_error="skip") == ["small"]
    assert len(texts(path, max_document_bytes=111)) == 2
    quoted = write(tmp_path / "a.csv", 'text\n"' + "many lines\n" * 20 + '"\nsmall\n')
    with pytest.raises(DataError, match=r"a\.csv:2: a quote that opens here is not closed within 100 bytes"):
        read(quoted, max_document_bytes=100)
    chinese = write(tmp_path / "c.jsonl", json.dumps({"text": "字" * 30}, ensure_ascii=False) + "\n")
    assert texts(chinese, max_document_bytes=102) == ["字" * 30]
    with pytest.raises(DataError, match=r"c\.jsonl:1: record longer"):
        read(chinese, max_document_bytes=101)


@pytest.mark.parametrize("documents", ["blank-line", "file"])
def test_a_long_document_of_short_lines_is_not_held(tmp_path: Path, documents: str) -> None:
    path = write(tmp_path / "a.txt", b"some words of a line, all in one document\n" * 500_000)
    stats = DataStats()
    tracemalloc.start()
    with pytest.raises(DataError, match="record longer than 1000000 bytes"):
        read(path, stats, documents=documents, max_document_bytes=1_000_000, on_error="skip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (stats.documents, stats.quarantined) == (1, 1)
    assert peak < 10_000_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(copies: int) -> int:
        path = write(tmp_path / "a.txt", (b"some words of a line\n" * 1000 + b"\n") * 50 * copies)
        tracemalloc.start()
        for _ in read_corpus(path):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    small, large = peak(2), peak(20)
    assert large < small * 1.2


def test_the_statistics_list_a_bounded_number_of_faults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "{\n" * 3000 + '{"text": "a"}')
    stats = DataStats()
    read(path, stats, on_error="skip")
    assert (stats.quarantined, len(stats.quarantine), stats.documents) == (3000, 1000, 3001)
    stats.used -= 1
    with pytest.raises(AssertionError, match="3001 documents in, 3000 accounted for"):
        stats.check()


def test_all_quarantined_is_an_error_that_shows_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text in 1 file .*the first .*a\.jsonl:1: not JSON"):
        read(write(tmp_path / "a.jsonl", "{bad"), on_error="skip")


@pytest.mark.skipif(not DATA.is_dir(), reason="real data are not here")
def test_real_corpora_are_read_whole() -> None:
    stats = DataStats()
    kept = sum(len("".join(d.text.split())) for d in read_corpus(DATA / "corpora", stats=stats))
    stats.check()
    raw = sum(
        len("".join(path.read_text("utf-8-sig").split())) for path in sorted((DATA / "corpora").rglob("*.txt"))
    ) + sum(len("".join(d.text.split())) for d in read_corpus(str(DATA / "corpora/**/*.jsonl")))
    assert kept == raw
    assert stats.quarantined == 0


def test_json_lines_may_have_white_space_round_them_and_names_of_fields_in_their_values(tmp_path: Path) -> None:
    lines = [
        '  {"text": "a"}',
        '{"text": "b"} \t',
        '{"text": "\\"text\\": c", "kind": "text"}',
        "\t[1]",
        '{"text": "d"} x',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    stats = DataStats()
    documents = read_corpus(tmp_path / "a.jsonl", CorpusConfig(on_error="skip"), stats)
    assert [document.text for document in documents] == ["a", "b", '"text": c']
    assert [(e.line, e.reason) for e in stats.quarantine] == [
        (4, "holds a JSON array, not an object"),
        (5, "not JSON: Extra data at character 15"),
    ]
