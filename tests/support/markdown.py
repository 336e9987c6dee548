"""Code blocks, commands and links of the project's Markdown pages."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "examples")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced code block; ``title`` is the file name to save it under."""

    language: str
    title: str | None
    text: str


def code_blocks(page: Path, language: str) -> list[Block]:
    found = [Block(*match.groups()) for match in _FENCE.finditer(page.read_text())]
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of each shell command of a page."""
    text = "".join(block.text for block in code_blocks(page, "bash"))
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def links_of(page: Path) -> list[str]:
    """Return the relative links of a page, without their fragments."""
    return re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())


def linked_files(page: Path) -> list[Path]:
    """Return the files that a page links to or shows."""
    return [page.parent / link for link in links_of(page)]
