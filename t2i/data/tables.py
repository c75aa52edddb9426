"""Tables of captions and prompts: text files, JSON lines, CSV and Parquet, each row with its position in the file.

Every error is one sentence with the file, the line (if any) and the remedy.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from t2i.checks import shortened
from t2i.files import read_text

Row = tuple[str, dict]  # its position, as given in messages, and its values by column
TABLES = (".jsonl", ".csv", ".parquet")
OTHER_TABLES = (".json", ".tsv", ".tab", ".xlsx", ".xls", ".ods", ".yaml", ".yml")  # unsupported
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, line) of the non-empty lines of a text file, stripped of white space.

    Raises FileNotFoundError and ValueError as `read_text` does.
    """
    return lines_of(read_text(path))


def lines_of(text: str) -> list[tuple[int, str]]:
    """(number, line) of the non-empty lines of a text, stripped of white space.

    Lines end at \\n, \\r\\n or \\r, and not at the other separators of `str.splitlines`, which may occur in captions.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def caption_of(text: str) -> str:
    """The caption in a text file: its lines joined by spaces."""
    return " ".join(line for _, line in lines_of(text))


def read_table(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .csv or .parquet file; raises ValueError for other or damaged files."""
    suffix = path.suffix.lower()
    read = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}.get(suffix)
    if read is None:
        raise ValueError(f"{path} is no table; give one that ends in {', '.join(TABLES)}")
    return read(path)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
            raise ValueError(f'{where}: not JSON ({what}); each line is an object {{"file_name": …}}') from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {_short(row)} is no object; each line is one, in {{ }}, with names and values")
        yield where, row


def _csv_rows(path: Path) -> Iterator[Row]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] = []
    try:
        for values in rows:
            where = f"{path}, line {rows.line_num}"
            if not values:
                continue
            if not header:
                header = [name.strip() for name in values]
                other = next((_SEPARATORS[c] for c in _SEPARATORS if c in values[0]), None)
                if len(values) == 1 and other is not None:
                    raise ValueError(f"{where}: its columns are separated by {other}; separate them by commas")
                if len(set(header)) < len(header):
                    raise ValueError(f"{where}: two columns have one name: {', '.join(header)}")
                continue
            if len(values) != len(header):
                raise ValueError(
                    f"{where} has {len(values)} fields, the header {len(header)} ({', '.join(header)}); put captions "
                    "that hold commas in double quotes"
                )
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {rows.line_num}: {error}; put captions in double quotes, and double those in them"
        ) from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # slow to import
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pa.ArrowException as error:
        raise ValueError(f"{path} is damaged or no Parquet file ({_short(str(error))}); write it again") from None


def text_of(row: dict, column: str, where: str) -> str:
    """The text in a column of a row; ValueError, naming its position, if it is not a string or not valid UTF-8."""
    if column not in row:
        raise ValueError(f"{where} has no {column!r}, only: {', '.join(map(str, row)) or 'nothing'}")
    text = row[column]
    if not isinstance(text, str):
        raise ValueError(f"{where}: {column!r} is no text but {_short(text)}; write one, or remove the line")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {column!r} holds half of a character ({_short(text)}); write it anew") from None
    return text


def texts_of(row: dict, column: str, where: str) -> tuple[str, ...]:
    """The captions in a column of a row: a string or a list of strings. Raises ValueError as `text_of` does."""
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        return (text_of(row, column, where),)
    return tuple(text_of({column: text}, column, where) for text in value)


def _short(value: object) -> str:
    return "null" if value is None else shortened(value)
