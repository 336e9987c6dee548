"""The command `d2-seesaw`: its commands, their help and examples, and the packages they need."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from d2_seesaw import __version__, cli
from d2_seesaw.cli.report import compare_groups
from d2_seesaw.cli.report.compare_groups import split_groups
from d2_seesaw.detectron2_origin import NOT_INSTALLED
from d2_seesaw.engine.config_files import find_config

ROOT = Path.cwd()
every_command = pytest.mark.parametrize("name", cli.COMMANDS)


def commands_in(examples):
    """Return the arguments of every command in the examples of a help text."""
    for line in re.sub(r"\\\n\s*", "", examples).splitlines():
        words = shlex.split(line)
        start = {"d2-seesaw", "d2_seesaw"} & set(words)
        if start:
            yield words[words.index(start.pop()) + 1 :]


def parse(command, *arguments):
    """Parse a command; return the config that it trains with."""
    module = importlib.import_module(cli.module_of(command))
    if (command, *arguments[:1]) == ("report", "compare"):
        assert split_groups(compare_groups.parse_arguments(arguments[1:]).runs)
        return None
    args = module.argument_parser().parse_args(arguments)
    if command != "train":
        return None
    assert not [word for word in args.opts if word.startswith("--")], "a flag behind options"
    return None if args.data else args.config_file


def help_of(*words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@every_command
def test_the_help_of_every_command_ends_with_examples_that_it_can_parse(name, capsys):
    text = help_of(name, capsys=capsys)
    assert text.startswith(f"usage: d2-seesaw {name} ")
    _, examples = text.split("\n\nExamples:\n")
    found = list(commands_in(examples))
    assert found
    assert len(found) == len(re.findall(r"^  \S", examples, re.MULTILINE))
    for arguments in found:
        assert arguments[0] == name
        config = parse(*arguments)
        assert config in (None, "my_config.py") or find_config(config)


@pytest.mark.parametrize("kind", ["instances", "semantic"])
def test_the_help_of_a_kind_of_data_has_examples_too(kind, capsys):
    assert f"d2-seesaw generate {kind}\n" in help_of("generate", kind, capsys=capsys)


def test_the_main_help_lists_every_module_of_a_command(capsys):
    text = help_of(capsys=capsys)
    modules = {p.stem.rstrip("_").replace("_", "-") for p in Path("d2_seesaw/cli").glob("[!_]*")}
    assert set(cli.COMMANDS) == modules
    for name, summary in cli.COMMANDS.items():
        assert re.search(rf"^    {name}\s+{re.escape(summary)}$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "unknown command 'evalute'; did you mean 'evaluate'?"),
        (["xyz"], "unknown command 'xyz'\n"),
        ([], "the following arguments are required: COMMAND"),
        (["generate", "instance"], "invalid choice: 'instance'"),
        (["check", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    ],
)
def test_an_invalid_command_has_exit_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def run(*arguments, start=("-m", "d2_seesaw"), cwd=ROOT):
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_python_m_d2_seesaw_and_train_net_are_the_command():
    assert run("--version").stdout == f"d2_seesaw {__version__}\n"
    unknown = run("tran")
    assert (unknown.returncode, unknown.stderr.count("did you mean 'train'")) == (2, 1)
    refused = run("--config-file", "lvis_v1_sesaw", start=["train_net.py"])
    assert refused.returncode == 1
    assert refused.stderr == (
        "d2-seesaw train: config file 'lvis_v1_sesaw' does not exist; "
        "did you mean 'lvis_v1_seesaw'?\n"
    )


WITHOUT = "import sys; sys.modules.update(dict.fromkeys({}))\n"
MAIN = "from d2_seesaw.cli import main; sys.exit(main(sys.argv[1:]))"


def run_without(modules, code, *arguments):
    return run(*arguments, start=("-c", WITHOUT.format(modules) + code))


@every_command
def test_without_detectron2_every_command_but_env_is_a_one_line_error(name):
    result = run_without(["detectron2"], MAIN, name)
    if name == "env":
        assert "platform" in result.stdout
    else:
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"d2-seesaw {name}: {NOT_INSTALLED}\n"


@pytest.mark.parametrize("command", ["--help", "env"])
def test_help_and_versions_need_no_package_at_all(command):
    absent = ["torch", "torchvision", "detectron2", "numpy", "cv2", "omegaconf"]
    result = run_without(absent, MAIN, command)
    assert result.returncode == (command == "env")
    assert "torch cannot be imported" in result.stdout or "Examples:" in result.stdout
    assert result.stderr == ""


def test_another_missing_package_is_named_in_one_line():
    result = run_without(["omegaconf"], MAIN, "train")
    assert result.returncode == 1
    assert result.stderr.startswith("d2-seesaw train: ")
    assert "omegaconf" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_detectron2_importing_the_library_says_how_to_install_it():
    """Import losses and layers, which work without it."""
    code = (
        "import d2_seesaw.losses, d2_seesaw.layers\n"
        "for name in sys.argv[1:]:\n"
        "    try: __import__('d2_seesaw.' + name)\n"
        "    except ModuleNotFoundError as error: print(error.name, error)\n"
        "    else: print(name, 'was imported')\n"
    )
    inits = {path.parent.name for path in Path("d2_seesaw").glob("*/__init__.py")}
    names = sorted(inits - {"losses", "layers", "utils", "cli"})
    result = run_without(["detectron2"], code, *names)
    assert len(names) >= 8
    assert result.stdout.splitlines() == [f"detectron2 {NOT_INSTALLED}"] * len(names)


@pytest.mark.parametrize("value", ["-1", str(2**63)])
@pytest.mark.parametrize(
    "command",
    [
        "generate instances",
        "generate semantic",
        "generate classification",
        "generate cutouts --cutouts DIR",
        "calibrate CHECKPOINT --method gamma",
        "draw --dataset NAME",
        "report compare A -- B --annotations FILE",
    ],
)
def test_every_command_refuses_an_impossible_seed_by_name_and_value(command, value, capsys):
    name, *arguments = command.split()
    with pytest.raises(SystemExit):
        parse(name, *arguments, f"--seed={value}")
    assert f"argument --seed: must be from 0 to {2**63 - 1}, got {value}" in capsys.readouterr().err
