"""Identity of own data: whether annotations of a call have the content that a config is for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2_seesaw.data.annotations.reader import content_hash
from d2_seesaw.own_data.config_file import recorded_contents
from d2_seesaw.own_data.split_files import Source, source_of


def is_same_path(given: str, written: str | None) -> bool:
    """Return whether two paths lead to the same file or folder."""
    return written is not None and os.path.realpath(given) == os.path.realpath(written)


@dataclass(frozen=True)
class WrittenData:
    """Annotations that a config trains and evaluates on.

    Attributes:
        files: path of both; None where the config registers no file.
        sha256: content of both when the config was written; None where it does not say.
        sources: the file that each is split from; None for other files.
    """

    files: tuple[str | None, str | None]
    sha256: tuple[str | None, ...]
    sources: tuple[Source | None, ...]

    @classmethod
    def of(cls, config: Path, train: str | None, val: str | None) -> "WrittenData":
        """Read what a config and its annotation files say about the contents.

        Args:
            config: the config file.
            train: annotations that it trains on.
            val: annotations that it evaluates on.
        """
        text = config.read_text(encoding="utf-8")
        recorded = recorded_contents(text, (train, val), config.parent)
        sources = [source_of(file) if file else None for file in (train, val)]
        return cls((train, val), tuple(recorded), tuple(sources))

    @property
    def group_by(self) -> str | None:
        """Pattern of ``--group-by`` that the files were split with."""
        return self.sources[0].group_by if self.sources[0] else None

    def is_of(self, given: Sequence[str]) -> bool:
        """Return whether two files have these contents, or one is what they were split from.

        A file at the path of the config passes without a SHA-256 to compare it with.
        """
        if len(given) > 1:
            return all(map(_has_content, given, self.files, self.sha256))
        sha256 = content_hash(given[0])
        return all(source is not None and source.sha256 == sha256 for source in self.sources)

    def caveats(self, given: Sequence[str]) -> list[str]:
        """Return a line if two files passed whose contents could not be compared, or none."""
        known = len(given) == 1 or None not in self.sha256
        text = "  it has no SHA-256 of the annotations, so their contents were not compared"
        return [] if known else [text]

    def text(self, given: Sequence[str]) -> str:
        """Return the files, or the one that both were split from, for a message.

        Args:
            given: the files of the call; one that was changed at its path is told by its SHA-256.
        """
        first = self.sources[0]
        if first is not None and self.sources[1] == first:
            return f"{first.file} (SHA-256 {first.sha256[:8]})"
        if len(given) == 1:
            return " and ".join(map(str, self.files))
        return " and ".join(map(_described, given, self.files, self.sha256))


def _has_content(given: str, written: str | None, recorded: str | None) -> bool:
    if written is None:
        return False
    if recorded is None and is_same_path(given, written):
        return True
    try:  # training reads the file of the config: a copy of its earlier content is not enough
        contents = content_hash(given), content_hash(written)
    except OSError:
        return False
    return set(contents) == {recorded or contents[0]}


def _described(given: str, written: str | None, recorded: str | None) -> str:
    is_changed = recorded and is_same_path(given, written) and content_hash(given) != recorded
    return f"{written} (SHA-256 {recorded[:8]})" if recorded and is_changed else str(written)
