"""Readers of files, one format each: a file `<format>.py` gives the records of a file; the others serve them all.

A reader is found by its file's name, or by the path of a user's own file. It says which `SUFFIXES` it reads and has

    def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]

which gives `(line, fields)` for each record, no fields for a blank line, and a `RecordError` for what cannot be read.
"""

SHARED_MODULES = ("corpus", "files", "labelled", "lines", "memory", "records", "tables", "words")
