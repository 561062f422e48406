"""Read text from files, by the same rules for questions, calibration text and other tools' logs.

- Text is UTF-8, with or without a byte order mark. UTF-16 and files that aren't text are refused, naming their kind.
- Lines end only at `\\n`; a `\\r` before it is dropped. U+2028, U+0085 and form feeds are ordinary characters.
- Lines and table rows of only white space are skipped, but counted in line numbers.
- `null` and texts of only white space mean absent. Numbers are accepted as texts, as written; 7.0 is 7. NaN and
  infinity are not.
- A field that occurs twice in an object with different values is refused, as are two columns with the same name.
- A table cell may have any length.

`about` starts every message (`data`, `import`, …); `place` is the file's name, with the line if there is one.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from anomia.errors import DataError
from anomia.text import visible

# Other kinds of files by their first bytes. UTF-32 comes before UTF-16, because its mark starts with that of UTF-16.
_UTF_16 = "is {} text; save it as UTF-8"
_KINDS = (
    (b"\xff\xfe\x00\x00", _UTF_16.format("UTF-32")),
    (b"\x00\x00\xfe\xff", _UTF_16.format("UTF-32")),
    (b"\xff\xfe", _UTF_16.format("UTF-16")),
    (b"\xfe\xff", _UTF_16.format("UTF-16")),
    (b"\x1f\x8b", "is compressed (gzip), whatever its name says; unpack it"),
    (
        b"PK\x03\x04",
        "is a zip archive or a spreadsheet, whatever its name says; unpack it, or save it as CSV",
    ),
    (b"PAR1", "is a Parquet file, not text"),
)
_POINTERS = (
    (
        b"version https://git-lfs.github.com/spec",
        "is a Git LFS pointer, not the file itself; run git lfs pull",
    ),
    (b"<!doctype html", "is a web page, not the file itself; download the raw file"),
    (b"<html", "is a web page, not the file itself; download the raw file"),
)
_HEAD = 4096
# Above this, floats can't represent every whole number, so printed digits may be wrong.
_EXACT = 2**53


class PlacedValue(NamedTuple):
    """One value of a file. place: file and line, for messages. number: from 1, not counting blank lines."""

    place: str
    number: int
    value: Any


class Line(NamedTuple):
    """One row of a table. number: of its first line, from 1."""

    number: int
    cells: list[str]


class NumberAsWritten(float):
    """A number with a fraction or an exponent that remembers how it was written."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, written: str) -> NumberAsWritten:
        """Parse a number in JSON's notation."""
        number = super().__new__(cls, written)
        number.written = written
        return number


class _TwiceError(ValueError):
    """An object has a field twice, with different values."""


def read_bytes(path: Path, *, about: str = "data") -> bytes:
    """Read a file's content. Raises `DataError` if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{about}: {path} can't be read: {error.strerror or error}") from None


def read_text(path: Path, *, about: str = "data") -> str:
    """Read a file's text. Raises `DataError` if it can't be read or isn't UTF-8."""
    return decoded(read_bytes(path, about=about), str(path), about=about)


def decoded(content: bytes, place: str, *, about: str = "data") -> str:
    """Decode a file's content, with line ends `\\n` and without byte order marks at the start of lines.

    Marks occur inside a text if files with a mark were concatenated.
    """
    refuse_other_kinds(content, place, about=about)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_bytes(error, 1 + content.count(b"\n", 0, error.start), place, about)
    return re.sub("^\ufeff+", "", text.replace("\r\n", "\n"), flags=re.MULTILINE)


def refuse_other_kinds(content: bytes, place: str, *, about: str = "data", text: bool = True) -> None:
    """Refuse placeholders (LFS pointers, web pages) and, if `text` is expected, other kinds of files, by name."""
    head = content[:_HEAD]
    for start, says in _POINTERS + (_KINDS if text else ()):
        if head.lstrip().lower().startswith(start) or head.startswith(start):
            raise DataError(f"{about}: {place} can't be used as it is: it {says}")
    # UTF-16 without a mark: every other byte of Latin text is 0.
    halves = [part.count(0) * 2 > len(part) for part in (head[::2], head[1::2])]
    if text and any(halves):
        says = "is not text" if all(halves) else _UTF_16.format("UTF-16")
        raise DataError(f"{about}: {place} can't be used as it is: it {says}")


def json_lines(
    lines: Iterable[bytes], place: str, *, about: str = "data", mend: bool = False
) -> Iterator[PlacedValue]:
    """Read JSON lines one by one from a file opened in binary mode.

    mend: replaces lone surrogates, which some programs log, instead of refusing them.
    """
    count = 0
    for number, raw in enumerate(lines, start=1):
        if count == 0:
            refuse_other_kinds(raw, place, about=about)
        here = f"{place}, line {number}"
        try:
            line = raw.decode("utf-8").lstrip("\ufeff").strip()
        except UnicodeDecodeError as error:
            _refuse_bytes(error, number, place, about)
        if line:
            count += 1
            yield PlacedValue(here, count, parse_json(line, here, about=about, mend=mend, one_line=True))


def json_rows(content: bytes, place: str, *, about: str = "data") -> Iterator[PlacedValue]:
    """Read the values of JSON lines or, if the content starts with a bracket, of one JSON array."""
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from json_lines(io.BytesIO(content), place, about=about)
        return
    values = parse_json(decoded(content, place, about=about), place, about=about)
    for number, value in enumerate(values, start=1):
        yield PlacedValue(f"{place}, row {number}", number, value)


def parse_json(
    text: str, place: str, *, about: str = "data", mend: bool = False, one_line: bool = False
) -> Any:
    """Parse JSON. one_line: the text is one line of a file, named in `place`.

    Raises:
        DataError: it isn't JSON, is nested too deeply, has a field twice, or has a lone surrogate, which can't be
            written again.
    """
    try:
        # Not strict: some programs don't escape form feeds or tabs, and those are unambiguous.
        value = json.loads(text, strict=False, parse_float=NumberAsWritten, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if one_line else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{about}: {place} is not JSON ({at}: {_reason(error, one_line)})") from None
    except _TwiceError as error:
        raise DataError(f"{about}: {place} has {error} twice with different values; keep one") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{about}: {place} is not JSON that can be read: {error}") from None
    if r"\ud" not in text.lower():
        return value
    if mend:
        return _mended(value)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{about}: {place} holds half a character (a lone surrogate such as \\ud800)"
        ) from None
    return value


def table(text: str, place: str, *, delimiter: str, about: str = "data") -> list[Line]:
    """Parse the rows of a table (CSV), without blank ones.

    Raises:
        DataError: a quote is not closed, or text follows a closing quote; the message names the line.
    """
    rows: list[Line] = []
    start = 1
    limit = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        for cells in reader:
            if any(map(str.strip, cells)):
                rows.append(Line(start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        kind = "CSV" if delimiter == "," else "tab-separated"
        raise DataError(
            f"{about}: {place} is not a {kind} file: the row that begins in line {start}: {_table_reason(str(error))}"
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def as_text(value: Any) -> str | None:
    """A text unchanged, or a number as written; None for anything else.

    >>> as_text("Lima"), as_text(1889), as_text(1889.0), as_text(0.5), as_text(True), as_text(float("nan"))
    ('Lima', '1889', '1889', '0.5', None, None)
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return value.written if isinstance(value, NumberAsWritten) else str(value)


def is_absent(value: Any) -> bool:
    """Whether a value is null, or a text without visible characters."""
    return value is None or (isinstance(value, str) and not visible(value).strip())


def unpacked(value: Any, place: str, *, about: str = "data") -> Any:
    """Parse a table cell that has a list or object as JSON or Python text; any other value unchanged.

    Raises:
        DataError: a text starts like a list or object, but can't be parsed.
    """
    if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        return value
    try:
        return parse_json(value, place, about=about)
    except DataError as error:
        # NumPy writes lists without commas, and Python would join their texts into one.
        if re.search(r"""['"]\s+['"]""", value):
            raise DataError(
                f"{about}: {place} has no commas between its texts, as NumPy writes lists; write it as JSON"
            ) from None
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise error from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, value in pairs:
            # NaN differs from itself.
            if found[name] is not value and found[name] != value:
                raise _TwiceError(f"the field {name[:40]!r}")
    return found


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, Mapping):
        return {_mended(name): _mended(each) for name, each in value.items()}
    return value


def _refuse_bytes(error: UnicodeDecodeError, line: int, place: str, about: str) -> NoReturn:
    raise DataError(
        f"{about}: {place}, line {line} is not UTF-8 text ({error.reason}: {error.object[error.start]:#04x}); save the "
        "file as UTF-8"
    ) from None


def _reason(error: json.JSONDecodeError, one_line: bool) -> str:
    """What is wrong, and how to fix it."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    # Up to Python 3.12 the error points at the bracket, later at the comma.
    comma = (before.endswith(",") and after[:1] in ("}", "]")) or re.match(r",\s*[}\]]", after)
    if comma:
        return "a comma before a closing bracket; remove it"
    if error.msg == "Extra data" and "\r" in error.doc:
        return "lines end in \\r alone; save the file with line endings \\n"
    if error.msg == "Extra data" and one_line:
        return "another value after the first; write one object per line"
    if after.startswith("'"):
        return "put names and texts in double quotes"
    if one_line and (not after or error.msg.startswith("Unterminated")):
        return "it ends early; write one whole object per line, and line ends within a text as \\n"
    return error.msg


def _table_reason(complaint: str) -> str:
    if "unexpected end" in complaint:
        return "a quote is opened and never closed; double every quote within a text"
    if "expected after" in complaint:
        return "text after a closing quote; double every quote within a text"
    if "new-line character" in complaint:
        return "a \\r in the middle of a line; save the file with line endings \\n"
    return complaint
