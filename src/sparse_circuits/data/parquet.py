"""Rows of text from a parquet file, in the order of the file.

A file is a row of *row groups*, each with its columns apart, so one column is read and the others never are. A few rows
are decoded at a time from a small buffer: memory stays flat however large the file and its row groups are.
Row groups and rows are counted from 0, as pyarrow counts them, rows through the whole file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .source import missing_extra, one_line

TEXT_COLUMN = "text"
"""The column that is read where none is named, as most data sets call it."""

_ROWS = 64  # decoded at a time
_BUFFER = 1 << 20  # bytes read at a time


def text_size(path: Path, column: str) -> int:
    """About how many bytes of text the column holds: those of all columns before compression, as the file's end tells.

    Raises ValueError (one line) if the file is damaged, has no such column of strings, or the extra `data` is missing.
    """
    with _opened(path, column) as file:
        # Not `.column(...).total_uncompressed_size`: on some damaged files pyarrow aborts the process there.
        return sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))


def texts(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """(row, text) of every row. Raises ValueError like `text_size`, and for a row that holds no string."""
    row = 0
    with _opened(path, column) as file:
        for group in range(file.num_row_groups):
            batches = file.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False)
            while (values := _next(batches, path, group)) is not None:
                for text in values:
                    if text is None:
                        raise ValueError(
                            f"{path}, row group {group}, row {row}: column {column!r} holds null, not a string; "
                            "remove such rows, or name another column"
                        )
                    yield row, text
                    row += 1
        if row != file.metadata.num_rows:
            raise ValueError(
                f"{path} is damaged ({row} rows, not the {file.metadata.num_rows} it declares); restore it"
            )


@contextmanager
def _opened(path: Path, column: str) -> Iterator[Any]:
    """The file as pyarrow opens it, with its column checked."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise missing_extra(str(path)) from None
    try:
        file = parquet.ParquetFile(path, buffer_size=_BUFFER, page_checksum_verification=True)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no parquet file ({one_line(error)}); restore it or leave it out"
        ) from None
    with file:
        _check_column(file.schema_arrow, column, path)
        yield file


def _check_column(schema: Any, column: str, path: Path) -> None:
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    found = schema.get_all_field_indices(column)
    # A column of type null comes from a table without rows, or fails at its first one.
    if len(found) == 1 and (is_text(schema.field(found[0]).type) or types.is_null(schema.field(found[0]).type)):
        return
    others = ", ".join(field.name for field in schema if is_text(field.type) and field.name != column) or "none"
    held = "no column" if not found else "two columns" if len(found) > 1 else f"{schema.field(found[0]).type} in column"
    raise ValueError(f"{path} has {held} {column!r}; other columns of strings: {others}; name one with :column=NAME")


def _next(batches: Iterator[Any], path: Path, group: int) -> list[str | None] | None:
    """The next few rows, None after the last."""
    import pyarrow as arrow

    try:
        batch = next(batches, None)
        return None if batch is None else batch.column(0).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: bytes that are not UTF-8
        raise ValueError(f"{path}, row group {group} is damaged ({one_line(error)}); restore the file") from None
