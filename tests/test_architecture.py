"""Taste that a machine can hold: who imports whom, how long things are, what has a test."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path("d2_seesaw")
MODULES = sorted(PACKAGE.rglob("*.py"))
TORCH_ONLY = ("losses", "layers")
# What each subpackage may import of the others.
MAY_IMPORT = {
    "losses": set(),
    "layers": set(),
    "necks": {"layers"},
    "backbones": {"layers"},
    "roi_heads": {"losses", "layers"},
    "report": set(),
    "data": {"report"},
    "evaluation": {"data", "report"},
    "inference": {"checkpoint", "data", "engine", "evaluation", "report"},
    "semantic": {"losses", "layers"},
    "checkpoint": set(),
    "engine": set(),
}

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def test_modules_were_found():
    assert len(MODULES) > 30


@every_module
def test_imports_go_one_way(path):
    if path.parent == PACKAGE:
        return
    here = path.relative_to(PACKAGE).parts[0]
    for name in imported_names(path):
        if name.startswith("d2_seesaw."):
            other = name.split(".")[1]
            assert other == here or other in MAY_IMPORT[here], f"{here} imports {name}"
        assert not name.startswith(("configs", "tools", "tests", "train_net")), name
        if here in TORCH_ONLY:
            assert not name.startswith("detectron2"), f"{here} imports {name}"


@every_module
def test_is_two_levels_deep_at_most(path):
    assert len(path.relative_to(PACKAGE).parts) <= 2


@every_module
def test_modules_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - (body[0].lineno if body else node.lineno) + 1
            assert length <= 60, f"{node.name}: {length} lines"


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.name not in ("__init__.py", "protocol.py")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_every_module_has_its_test_file(path):
    mirror = Path("tests") / path.relative_to(PACKAGE)
    assert mirror.with_name(f"test_{path.name}").is_file()


@every_module
def test_no_assert_bare_except_or_print(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert on user input"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        assert not (is_call and node.func.id == "print"), f"line {node.lineno}: print"


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.py")), ids=str)
def test_configs_hold_no_lambda(path):
    assert not any(isinstance(n, ast.Lambda) for n in ast.walk(ast.parse(path.read_text())))


def test_importing_the_package_is_cheap_and_losses_need_no_detectron2():
    code = (
        "import sys, d2_seesaw; assert 'torch' not in sys.modules; "
        "import d2_seesaw.losses, d2_seesaw.layers; assert 'detectron2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_written_once():
    (version,) = re.findall(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text())
    assert f"## {version}" in Path("CHANGELOG.md").read_text()
    assert version not in Path("setup.py").read_text() + Path("pyproject.toml").read_text()
