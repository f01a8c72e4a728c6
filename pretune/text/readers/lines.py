"""Splits bytes into whole lines of text, a bounded run at a time; lines that are not text, or too long, are errors."""

from __future__ import annotations

from collections.abc import Iterator

from pretune.text.readers.files import Source, SourceConfig, UnreadableError, read_chunks
from pretune.text.readers.records import RecordError, too_long

CHUNK = 1 << 20  # bytes read at a time
_UTF8_BOM = b"\xef\xbb\xbf"
_BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def text_blocks(source: Source, config: SourceConfig) -> Iterator[tuple[int, str] | RecordError]:
    """Runs of whole lines with the number of their first, `\\n` at each line's end; lines that are not text as errors.

    No line is longer than `max_document_bytes`, no run longer than that and a chunk.
    """
    for item in _byte_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        line, offset, block = item
        try:
            text = block.decode()
        except UnicodeDecodeError:
            text = "\0"
        if offset == 0 and block.startswith(_UTF8_BOM):
            text, block, offset = text.removeprefix("\ufeff"), block.removeprefix(_UTF8_BOM), len(_UTF8_BOM)
        if "\0" in text:
            yield from _good_lines(source, line, offset, block)
        else:
            yield line, text.replace("\r\n", "\n") if "\r" in text else text


def read_whole(source: Source, config: SourceConfig, is_text: bool = False) -> bytes | RecordError:
    """The unfolded bytes of a file that is one record, without its byte order mark where it is text.

    Args:
        is_text: anything else than UTF-8 is an error.
    """
    if is_text:
        blocks = list(text_blocks(source, config))
        wrong = next((block for block in blocks if isinstance(block, RecordError)), None)
        text = "".join(block[1] for block in blocks if not isinstance(block, RecordError)).encode()
        return wrong or (text if len(text) <= config.max_document_bytes else _too_large(source, config))
    parts, size = list[bytes](), 0
    try:
        for chunk in read_chunks(source, CHUNK, config.max_compression_ratio):
            parts.append(chunk)
            if (size := size + len(chunk)) > config.max_document_bytes:
                return _too_large(source, config)
    except UnreadableError as error:
        return RecordError(str(source.path), 0, str(error), "fetch or write the file again")
    return b"".join(parts)


def _too_large(source: Source, config: SourceConfig) -> RecordError:
    return too_long(str(source.path), 1, config.max_document_bytes)


def _byte_blocks(source: Source, config: SourceConfig) -> Iterator[tuple[int, int, bytes] | RecordError]:
    """Runs of whole lines with the number of the first and its byte offset in the (unfolded) file."""
    file, limit = str(source.path), config.max_document_bytes
    line, end = 1, 0  # of the line that `carry` begins; bytes read
    carry, size, lost = [b""], 0, False  # lost: inside a line that is too long
    try:
        for chunk in read_chunks(source, min(CHUNK, limit), config.max_compression_ratio):
            if end == 0:
                if encoding := next((name for bom, name in _BOMS.items() if chunk.startswith(bom)), ""):
                    yield RecordError(file, 0, f"is {encoding}", f"convert it: iconv -f {encoding} -t UTF-8")
                    return
                size = -3 if chunk.startswith(_UTF8_BOM) else 0
            end += len(chunk)
            first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
            if not lost and size + (first if first >= 0 else len(chunk)) > limit:
                yield too_long(file, line, limit)
                carry, lost = [b""], True
            if last < 0:
                carry = [b""] if lost else [*carry, chunk]
                size += len(chunk)
                continue
            block = b"".join(carry) + chunk[: last + 1] if not lost else chunk[first + 1 : last + 1]
            line, lost = line + lost, False
            if block:
                yield line, end - len(chunk) + last + 1 - len(block), block
                line += block.count(b"\n")
            carry, size = [chunk[last + 1 :]], len(chunk) - last - 1
        if rest := b"".join(carry):
            yield line, end - len(rest), rest
    except UnreadableError as error:
        yield RecordError(file, line, str(error), "fetch or write the file again")


def _good_lines(source: Source, line: int, offset: int, block: bytes) -> Iterator[tuple[int, str] | RecordError]:
    """Line by line through a block in which something is not text: runs of good lines, an error for each bad one."""
    file, good = str(source.path), list[str]()
    for number, raw in enumerate(block.removesuffix(b"\n").split(b"\n"), line):
        error = _bad_bytes(file, number, raw, offset)
        offset += len(raw) + 1
        if error is None:
            good.append(raw.decode().removesuffix("\r") + "\n")
            continue
        if good:
            yield number - len(good), "".join(good)
            good = []
        yield error
    if good:
        yield number + 1 - len(good), "".join(good)


def _bad_bytes(file: str, line: int, raw: bytes, offset: int) -> RecordError | None:
    zero = raw.find(b"\0")
    if zero >= 0:
        remedy = "remove it; a file full of them is binary, or UTF-16: iconv -f UTF-16LE -t UTF-8"
        return RecordError(
            file, line, f"NUL character at byte {zero + 1} of the line (byte {offset + zero} of the file)", remedy
        )
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1} of the line (byte {offset + error.start} of the file)"
        what = f"not UTF-8: {error.reason} 0x{raw[error.start]:02x} at {where}"
        return RecordError(file, line, what, "convert the file, as with: iconv -f GB18030 (or LATIN1) -t UTF-8")
    return None


def split_lines(block: str) -> list[str]:
    """The lines of a block without their ends."""
    return block.removesuffix("\n").split("\n")
