"""Hints for error messages."""

import difflib
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
