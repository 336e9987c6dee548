"""Architecture rules: allowed imports, and limits of depth, length and number of modules."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import pytest

PACKAGE = Path("d2_seesaw")
MODULES = sorted(PACKAGE.rglob("*.py"))
# Subpackages that each subpackage may import.
BASE = {"losses", "layers", "utils"}
MAY_IMPORT = {
    "losses": {"utils"},
    "layers": {"utils"},
    "utils": set(),
    "modeling": BASE,
    "checkpoint": BASE,
    "engine": {*BASE, "checkpoint"},
    "data": {"utils"},
    "synthetic": {"data", "utils"},
    "evaluation": {"data", "utils"},
    "inference": {*BASE, "checkpoint", "data", "engine", "evaluation"},
    "own_data": {"checkpoint", "data", "engine", "utils"},
    "report": {"data", "evaluation", "utils"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)  # and nothing may import cli
NO_DETECTRON2 = ("losses", "layers", "utils")
DEPTH = 3
MODULES_IN_A_FOLDER = 15
LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60


@cache
def tree_of(path):
    """Parse a file once for all rules."""
    return ast.parse(path.read_text())


def against(rule, paths=MODULES):
    """Return what a rule has against each file, by its path."""
    complaints = {str(path): list(rule(path)) for path in paths}
    return {path: found for path, found in complaints.items() if found}


def imported_names(path, *, at_import=False):
    """Yield the modules that a file imports; with ``at_import``, only at module level."""
    tree = tree_of(path)
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def subpackages(path):
    """Return the subpackages that a module imports."""
    parts = [name.split(".") for name in imported_names(path)]
    return {p[1] for p in parts if p[0] == "d2_seesaw" and p[1:] and p[1] in MAY_IMPORT}


def imports_between_subpackages():
    """Yield each module of a subpackage together with each other subpackage that it imports."""
    for path in MODULES:
        here = path.relative_to(PACKAGE)
        if len(here.parts) > 1:
            yield from product([here], subpackages(path) - {here.parts[0]})


def test_modules_were_found():
    assert len(MODULES) > 80
    assert {p.relative_to(PACKAGE).parts[0] for p in MODULES if p.parent != PACKAGE} == set(
        MAY_IMPORT
    )


def test_imports_go_one_way():
    found = {
        (str(m), other)
        for m, other in imports_between_subpackages()
        if other not in MAY_IMPORT[m.parts[0]]
    }
    assert found == set()


def test_allowed_imports_have_no_cycle():
    allowed = {name: set(others) for name, others in MAY_IMPORT.items()}
    while free := {name for name, others in allowed.items() if not others & allowed.keys()}:
        allowed = {name: others for name, others in allowed.items() if name not in free}
    assert not allowed


def test_no_module_imports_users_of_the_library():
    outside = {"benchmarks", "configs", "examples", "tests", "tools", "train_net"}
    assert against(lambda p: outside & {n.split(".")[0] for n in imported_names(p)}) == {}


def test_losses_layers_and_utils_need_no_detectron2():
    def imports_of_detectron2(path):
        here = path.relative_to(PACKAGE).parts[0]
        if here not in NO_DETECTRON2:
            return set()
        # The functions for ranks in utils may import Detectron2 when they are called.
        names = set(imported_names(path, at_import=here == "utils"))
        return {n for n in names if n.split(".")[0] == "detectron2"}

    assert against(imports_of_detectron2) == {}


def test_modules_are_three_levels_deep_at_most():
    assert [p for p in MODULES if len(p.relative_to(PACKAGE).parts) > DEPTH] == []


def test_folders_stay_small():
    modules = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {f: n for f, n in modules.items() if n > MODULES_IN_A_FOLDER} == {}


def test_every_folder_is_a_package():
    """Check for ``__init__.py``: a folder without it would be missing from the wheel."""
    assert {p.parent for p in MODULES} == {p.parent for p in MODULES if p.name == "__init__.py"}


def test_modules_and_functions_stay_short():
    def too_long(path):
        lines = len(path.read_text().splitlines())
        if lines > LINES_OF_A_MODULE:
            yield f"{lines} lines"
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = (node.end_lineno or 0) - (body[0].lineno if body else node.lineno) + 1
                if length > LINES_OF_A_FUNCTION:
                    yield f"{node.name}: {length} lines"

    assert against(too_long) == {}


def test_every_folder_has_a_corresponding_test_folder():
    folders = {path.parent for path in MODULES} - {PACKAGE}
    mirrors = [Path("tests") / folder.relative_to(PACKAGE) for folder in sorted(folders)]
    assert [mirror for mirror in mirrors if not list(mirror.glob("test_*.py"))] == []


def test_no_assert_bare_except_or_print():
    def complaints(path):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Assert):
                yield f"line {node.lineno}: assert on user input"
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                yield f"line {node.lineno}: bare except"
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id == "print":
                yield f"line {node.lineno}: print"

    assert against(complaints) == {}


def test_configs_hold_no_lambda():
    def lambdas(path):
        return [n.lineno for n in ast.walk(tree_of(path)) if isinstance(n, ast.Lambda)]

    assert against(lambdas, sorted(Path("configs").rglob("*.py"))) == {}


def test_importing_is_cheap():
    """Import more and more in one process, so that torch is imported once."""
    code = "import sys"
    for imported, absent in (
        ("d2_seesaw, d2_seesaw.cli, d2_seesaw.cli.env", ["torch"]),
        ("d2_seesaw.utils.progress, d2_seesaw.utils.files, d2_seesaw.utils.ranks", ["torch"]),
        ("d2_seesaw.losses, d2_seesaw.layers", ["detectron2"]),
        ("d2_seesaw.modeling, d2_seesaw.report", ["detectron2.projects.deeplab", "matplotlib"]),
    ):
        code += f"\nimport {imported}\nfound = {set(absent)} & sys.modules.keys()"
        code += f"\nassert not found, ({imported!r}, found)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_every_module_can_be_imported_first():
    """Check that no import cycle is hidden by an earlier import."""
    names = [".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in MODULES]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    for known in [m for m in sys.modules if m.split('.')[0] == 'd2_seesaw']:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_set_in_one_place():
    (version,) = re.findall(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text())
    assert f"## [{version}]" in Path("CHANGELOG.md").read_text()
    assert version not in Path("setup.py").read_text() + Path("pyproject.toml").read_text()
