"""Text that comes from files: one set of rules for questions, calibration text and other tools' logs.

- Text is UTF-8, with a byte order mark or without. UTF-16 and what is no text at all are refused by name.
- A line ends at `\\n` and nowhere else; a `\\r` before it is dropped. U+2028, U+0085 and form feeds are characters.
- Lines, and rows of tables, that hold only white space are passed over, but counted in line numbers.
- `null` and a text of white space mean absent. Numbers are texts, as they are written; 7.0 is 7. NaN and infinity are
  neither.
- A field that an object names twice with different values is refused, as are two columns of one name.
- A cell of a table may have any length.

`about` begins every message (`data`, `import`, …); `place` says where: a file's name, with the line where there is one.
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

# Other kinds of files by their first bytes; UTF-32 before UTF-16, whose mark it begins with.
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
# Above this not every whole number is a float, so the digits of one would be invented.
_EXACT = 2**53


class PlacedValue(NamedTuple):
    """One value of a file of many. place: file and line, for messages. number: counted from 1, blank lines not."""

    place: str
    number: int
    value: Any


class Line(NamedTuple):
    """One row of a table. number: of the line in which it begins."""

    number: int
    cells: list[str]


class Number(float):
    """A number with a fraction or an exponent, and how it was written."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, written: str) -> Number:
        """Reads a number as JSON writes it."""
        number = super().__new__(cls, written)
        number.written = written
        return number


class _TwiceError(ValueError):
    """A field that an object has twice."""


def read_bytes(path: Path, *, about: str = "data") -> bytes:
    """The content of a file. Raises `DataError` where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{about}: {path} can't be read: {error.strerror or error}") from None


def read_text(path: Path, *, about: str = "data") -> str:
    """The text of a file. Raises `DataError` where it can't be read or is no UTF-8."""
    return decoded(read_bytes(path, about=about), str(path), about=about)


def decoded(content: bytes, place: str, *, about: str = "data") -> str:
    """The text of a file's content, its lines ended by `\\n` alone, without byte order marks where lines begin.

    Marks stand within a text where files that have one were joined.
    """
    refuse_other_kinds(content, place, about=about)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_bytes(error, 1 + content.count(b"\n", 0, error.start), place, about)
    return re.sub("^\ufeff+", "", text.replace("\r\n", "\n"), flags=re.MULTILINE)


def refuse_other_kinds(content: bytes, place: str, *, about: str = "data", text: bool = True) -> None:
    """Refuses what only stands for the file that was meant and, where `text` is expected, what is none, by name."""
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
    """The values of JSON lines, one at a time, from a file that was opened in binary mode.

    mend: replaces half characters, which programs log, instead of refusing them.
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
    """The values of JSON lines or, where the content begins with a bracket, of one JSON array."""
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from json_lines(io.BytesIO(content), place, about=about)
        return
    values = parse_json(decoded(content, place, about=about), place, about=about)
    for number, value in enumerate(values, start=1):
        yield PlacedValue(f"{place}, row {number}", number, value)


def parse_json(
    text: str, place: str, *, about: str = "data", mend: bool = False, one_line: bool = False
) -> Any:
    """The JSON value of a text. one_line: the text is a line of a file, and `place` names it.

    Raises:
        DataError: it is none, is nested too deeply, has a field twice, or holds half a character, which can't be
            written again.
    """
    try:
        # Not strict: a form feed or a tab in a text is not escaped by every program, and can mean nothing else.
        value = json.loads(text, strict=False, parse_float=Number, object_pairs_hook=_object)
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
    """The rows of a table (CSV), blank ones left out.

    Raises:
        DataError: a quote is not closed, or text follows a closing one; the line is named.
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
    """A text, or a number as it is written; None for anything else.

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
    return value.written if isinstance(value, Number) else str(value)


def is_absent(value: Any) -> bool:
    """Whether a value says nothing: null, or a text in which nothing can be seen."""
    return value is None or (isinstance(value, str) and not visible(value).strip())


def unpacked(value: Any, place: str, *, about: str = "data") -> Any:
    """The list or object that a cell of a table holds as JSON, or as Python writes it; any other value as it is.

    Raises:
        DataError: a text begins like one and can't be read.
    """
    if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        return value
    try:
        return parse_json(value, place, about=about)
    except DataError as error:
        # NumPy writes lists without commas, which Python would take for one text.
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
    """What is wrong, in words that tell what to do."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    # Up to Python 3.12 the fault is the bracket, from then on the comma.
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


def _table_reason(said: str) -> str:
    if "unexpected end" in said:
        return "a quote is opened and never closed; double every quote within a text"
    if "expected after" in said:
        return "text after a closing quote; double every quote within a text"
    if "new-line character" in said:
        return "a \\r in the middle of a line; save the file with line endings \\n"
    return said
