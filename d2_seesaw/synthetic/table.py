"""CSV files that users give."""

import csv
from collections.abc import Sequence
from pathlib import Path


def read_table(table: Path, columns: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Read columns of a CSV file, whose first row names them.

    Args:
        table: path of the file, in UTF-8 with or without a byte order mark.
        columns: names of the columns; others are ignored.

    Returns:
        The number of each row in the file, and its values without spaces around them.

    Raises:
        ValueError: the table cannot be read, lacks a column, or lacks a value.
    """
    expected = " and ".join(columns)
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = list(reader.fieldnames or ())  # reads the first row
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read: {error}") from error
    if missing := [column for column in columns if column not in found]:
        raise ValueError(
            f"{table} must have the columns {expected}; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, got {found or 'no columns'}"
        )
    values = []
    for number, row in enumerate(rows, start=2):
        cells = tuple((row[column] or "").strip() for column in columns)
        if not all(cells):
            raise ValueError(f"{table}, row {number}: {' or '.join(columns)} is missing")
        values.append((number, cells))
    return values
