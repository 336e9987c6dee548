"""Matching of class names between a model and the checkpoint that its training starts from."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from d2_seesaw.utils.text import did_you_mean

_SEPARATORS = re.compile(r"[\s_\-]+")
_PARENTHESES = re.compile(r"\([^()]*\)")


@dataclass(frozen=True)
class ClassMatches:
    """Classes of a checkpoint that the classes of a model were found in.

    Attributes:
        names: class names of the model, in order.
        theirs: class names of the checkpoint, in order.
        sources: class of the checkpoint for each class of the model, None if it has no such class.
        ambiguous: reason for each name that could be several classes, and is therefore not matched.
    """

    names: Sequence[str]
    theirs: Sequence[str]
    sources: Sequence[int | None]
    ambiguous: Mapping[str, str] = field(default_factory=dict)

    def found(self) -> list[str]:
        """Return the names that were found, with the checkpoint's spelling if it differs."""
        pairs = [
            (name, self.theirs[source])
            for name, source in zip(self.names, self.sources, strict=True)
            if source is not None
        ]
        return [own if own == their else f"{own} ({their!r})" for own, their in pairs]

    def new(self) -> list[str]:
        """Return the names that were not found."""
        pairs = zip(self.names, self.sources, strict=True)
        return [name for name, source in pairs if source is None]


def match_class_names(
    names: Sequence[str], theirs: Sequence[str], aliases: Mapping[str, str] | None = None
) -> ClassMatches:
    """Find the classes of a model among those of a checkpoint, by name.

    Equal names match first, then names that differ in upper and lower case, spaces, ``_`` and
    ``-``, then also in text in parentheses, as in LVIS's ``cup_(drink)``. A class is matched once.
    Names that could be several classes are not matched.

    Args:
        names: class names of the model.
        theirs: class names of the checkpoint.
        aliases: class of the checkpoint for a class of the model. Several may have the same one.

    Raises:
        ValueError: an alias names a class that does not exist.
    """
    sources: list[int | None] = [None] * len(names)
    ambiguous: dict[str, str] = {}
    for name, their in (aliases or {}).items():
        sources[_place(name, names, "the model")] = _place(their, theirs, "the checkpoint")
    left = {place for place, source in enumerate(sources) if source is None}
    free = set(range(len(theirs)))
    keys: tuple[Callable[[str], str], ...] = (str, _spelling, _without_parentheses)
    for key in keys:
        own_places = _by_key(names, left, key)
        their_places = _by_key(theirs, free, key)
        for text in own_places.keys() & their_places.keys():
            own, their = own_places[text], their_places[text]
            if len(own) == len(their) == 1:
                sources[own[0]] = their[0]
                free -= {*their}
            else:
                several = ", ".join(repr(theirs[place]) for place in their)
                ambiguous |= {names[place]: several for place in own}
            left -= {*own}
    return ClassMatches(tuple(names), tuple(theirs), tuple(sources), ambiguous)


def _place(name: str, names: Sequence[str], owner: str) -> int:
    places = [place for place, other in enumerate(names) if other == name]
    if len(places) != 1:
        fault = "several classes" if places else "no class"
        raise ValueError(
            f"train.class_aliases: {owner} has {fault} {name!r}{did_you_mean(name, names)}. "
            "Expected OWN_NAME: NAME_IN_THE_CHECKPOINT"
        )
    return places[0]


def _by_key(
    names: Sequence[str], places: Iterable[int], key: Callable[[str], str]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place in sorted(places):
        if text := key(names[place]):
            found.setdefault(text, []).append(place)
    return found


def _spelling(name: str) -> str:
    return _SEPARATORS.sub(" ", name).strip().casefold()


def _without_parentheses(name: str) -> str:
    return _spelling(_PARENTHESES.sub(" ", name))
