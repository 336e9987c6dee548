"""Commands of all pages, checked with the real parsers and configs."""

import argparse
import re
from pathlib import Path

import pytest

from d2_seesaw.cli import main
from d2_seesaw.engine import load_config
from tests.support.markdown import PAGES, ROOT, commands, name_of

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
INSTALL = {("pip", "install"), ("pre-commit", "install"), (".", ".venv/bin/activate")}
WITH_COMMANDS = [name_of(page) for page in PAGES if commands(page)]


class ParsedError(Exception):
    """Exception with the parsed arguments, raised instead of running a command."""


@pytest.fixture
def parse(monkeypatch):
    """Return a function that parses the arguments of d2-seesaw to a namespace."""
    original = argparse.ArgumentParser.parse_args

    def parse_only(parser, *args, **kwargs):
        namespace = original(parser, *args, **kwargs)
        if parser.prog == "d2-seesaw":  # chooses the command
            return namespace
        raise ParsedError(namespace)

    def parse(arguments):
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        with pytest.raises(ParsedError) as parsed:
            main(arguments)
        monkeypatch.undo()
        return parsed.value.args[0]

    return parse


def check_config(arguments):
    """Load a shipped config with the overrides; configs that the reader writes have other tests."""
    name = getattr(arguments, "config_file", None)
    if name and not name.startswith(("my_", "output/")):
        load_config(name, getattr(arguments, "opts", []))


def check_script(path, options):
    """Check that a script exists and that it, or a module beside it, has the options."""
    assert (ROOT / path).is_file()
    text = "".join(file.read_text() for file in (ROOT / path).parent.glob("*.py"))
    unknown = [option for option in options if option.startswith("--") and option not in text]
    assert unknown == [], f"{path} has no {unknown}"


def of_torchrun(words):
    """Return the command of each rank."""
    if "d2_seesaw" in words:
        return ["d2-seesaw", *words[words.index("d2_seesaw") + 1 :]]
    return ["python", *words[words.index("train_net.py") :]]


def check_command(words, parse):
    words = [word for word in words if not re.match(r"[A-Z_0-9]+=", word)]  # environment variables
    if words[:1] == ["torchrun"]:
        words = of_torchrun(words)
    if words[0] == "d2-seesaw":
        check_config(parse(words[1:]))
    elif words[:2] == ["python", "train_net.py"]:
        check_config(parse(["train", *words[2:]]))
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").is_file()
    elif words[0] == "python":
        check_script(words[1], words[2:])
    elif words[0] == "make":
        assert words[1] in TARGETS
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words[1:])
    else:
        assert tuple(words[:2]) in INSTALL


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_of_a_page_can_be_parsed(page, parse):
    for words in commands(ROOT / page):
        try:
            check_command(words, parse)
        except (SystemExit, Exception) as error:
            raise AssertionError(f"{page}: {' '.join(words)}") from error
