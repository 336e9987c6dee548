"""Hints for error messages, names on one line, and text for spreadsheets."""

import difflib
import re
from collections.abc import Iterable, Mapping


def did_you_mean(
    name: object,
    choices: Iterable[object],
    *,
    shown: Mapping[str, str] | None = None,
    cutoff: float = 0.6,
) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``choices``, or an empty string.

    Args:
        name: the unknown name.
        choices: the known names.
        shown: text to suggest for each choice, by default the choice itself.
        cutoff: minimum similarity, from 0 (any) to 1 (equal).
    """
    near = difflib.get_close_matches(str(name), [str(choice) for choice in choices], 1, cutoff)
    return f"; did you mean {(shown or {}).get(near[0], near[0])!r}?" if near else ""


def printable(text: object) -> str:
    r"""Return text, such as the name of a file, on one line without control characters.

    Every character that is not printable becomes its escape sequence in Python: a line feed ``\n``,
    an undecodable byte of a file name ``\udcff``.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


# Characters with which spreadsheets begin a formula; the last four are full-width forms.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def escape_formula(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    An apostrophe is put in front of text that begins like a formula, except for numbers, and of
    such text behind apostrophes, so that :func:`unescape_formula` returns the same text. See
    https://owasp.org/www-community/attacks/CSV_Injection.
    """
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def unescape_formula(text: str) -> str:
    """Return the text from which :func:`escape_formula` made the text of a cell."""
    return text[1:] if text.startswith("'") and escape_formula(text[1:]) == text else text
