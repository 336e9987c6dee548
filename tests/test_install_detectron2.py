"""Tests of installing Detectron2: contents of the copy, fallbacks and one-line errors."""

import base64
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from d2_seesaw import install_detectron2
from d2_seesaw.detectron2_origin import (
    COMMIT,
    COPY_LABEL,
    COPY_NAME,
    Installed,
    find_installed,
)
from d2_seesaw.install_detectron2 import (
    InstallationError,
    check_compiler,
    check_repository,
    check_source,
    download_copy,
    install,
    pip_reason,
)

# A minimal version of the wheel on the package index.
WHEEL_FILES = {
    "detectron2/__init__.py": '__version__ = "0.7.2"\n',
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "\x7fELF",
    "detectron2/layers/__init__.py": "",
    "tools/__init__.py": "",
    "tools/train_net.py": "raise SystemExit\n",
    "sal_detectron2-0.7.2.dist-info/LICENSE": "Apache License\n",
    "sal_detectron2-0.7.2.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\nSummary: SAL\n"
        "License-File: LICENSE\nRequires-Dist: numpy<2\nRequires-Dist: black\n"
        "Provides-Extra: dev\n"
    ),
    "sal_detectron2-0.7.2.dist-info/WHEEL": (
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: cp310-none-any\n"
    ),
    "sal_detectron2-0.7.2.dist-info/top_level.txt": "detectron2\ntools\n",
}


def digest(text):
    """Return the hash of a file in the format of a wheel's RECORD."""
    raw = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def write_wheel(folder):
    """Write a wheel like the one on the index into ``folder``; return its sha256."""
    path = folder / "sal_detectron2-0.7.2-cp310-none-any.whl"
    info = "sal_detectron2-0.7.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in WHEEL_FILES.items():
            wheel.writestr(name, text)
        rows = [f"{name},sha256={digest(text)},{len(text)}" for name, text in WHEEL_FILES.items()]
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,\n"]))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Make pip use a folder as the package index; return the sha256 of the wheel in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return write_wheel(folder)


def test_the_copy_has_the_license_but_no_compiled_files_tools_or_requirements(
    index, tmp_path, monkeypatch
):
    monkeypatch.setattr(install_detectron2, "COPY_SHA256", index)
    work = tmp_path / "work"
    work.mkdir()
    made = download_copy(work)
    assert made.name == f"sal_detectron2-{COPY_LABEL}-py3-none-any.whl"
    with zipfile.ZipFile(made) as wheel:
        info = f"sal_detectron2-{COPY_LABEL}.dist-info"
        names = {name for name in wheel.namelist() if not name.endswith("/RECORD")}
        assert names == {
            "detectron2/__init__.py",
            "detectron2/layers/__init__.py",
            *(f"{info}/{name}" for name in ("LICENSE", "METADATA", "WHEEL", "top_level.txt")),
        }
        assert wheel.read(f"{info}/top_level.txt") == b"detectron2\n"
        metadata = wheel.read(f"{info}/METADATA").decode().splitlines()
    assert f"Version: {COPY_LABEL}" in metadata
    assert not any(line.startswith(("Requires-Dist", "Provides-Extra")) for line in metadata)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    subprocess.run([*pip, made], check=True)
    (distribution,) = importlib.metadata.distributions(path=[str(target)])
    assert (distribution.name, distribution.version) == (COPY_NAME, COPY_LABEL)


def test_a_wheel_with_another_hash_is_rejected_in_one_line(index, tmp_path, capfd):
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(
        InstallationError, match="does not have the pinned sha256: refused"
    ) as error:
        download_copy(work)
    assert "\n" not in str(error.value)
    assert not list(work.glob("*.whl"))


@pytest.mark.skipif(
    not (find_installed() and find_installed().is_copy), reason="Detectron2 is not the copy here"
)
def test_the_installed_copy_has_no_compiled_files_and_no_tools():
    distribution = importlib.metadata.distribution(COPY_NAME)
    files = [str(file) for file in distribution.files or ()]
    assert sum(name.startswith("detectron2/") for name in files) > 250
    assert not [name for name in files if name.endswith((".so", ".pyd", ".dylib"))]
    assert not [name for name in files if name.startswith("tools")]
    assert not list(Path(find_installed().location).rglob("*.so"))
    assert [name for name in files if "LICENSE" in name]


@pytest.fixture
def recorded(monkeypatch):
    """Simulate an environment without Detectron2; return the list of recorded installations."""
    done = []

    def record(name):
        def note(*arguments):
            done.append((name, *arguments))
            there = Installed(COPY_NAME, COPY_LABEL, "", "", "/x", compiled=False)
            monkeypatch.setattr(install_detectron2, "find_installed", lambda: there)

        return note

    monkeypatch.setattr(install_detectron2, "find_installed", lambda: None)
    monkeypatch.setattr(install_detectron2, "check_repository", lambda: None)
    monkeypatch.setattr(install_detectron2, "check_compiler", lambda: None)
    monkeypatch.setattr(install_detectron2, "_install_built", record("built"))
    monkeypatch.setattr(install_detectron2, "_install_copy", record("copy"))
    return done


def failing(text):
    def fail(*arguments):
        raise InstallationError(text)

    return fail


def test_by_default_the_repository_is_tried_before_the_copy(recorded):
    install()
    ((name, requirement),) = recorded
    assert name == "built"
    assert requirement.endswith(f"detectron2.git@{COMMIT}")


def test_a_build_that_fails_falls_back_to_the_copy_and_says_why(recorded, monkeypatch):
    monkeypatch.setattr(install_detectron2, "_install_built", failing("there is no compiler"))
    line = install()
    assert recorded == [("copy",)]
    assert "the copy on the package index" in line
    assert line.endswith("(because there is no compiler)")


def test_an_explicit_git_source_does_not_fall_back(recorded, monkeypatch):
    monkeypatch.setattr(install_detectron2, "_install_built", failing("no network"))
    with pytest.raises(InstallationError, match=r"^no network$"):
        install("git")
    assert recorded == []


def test_if_both_sources_fail_one_line_gives_both_reasons(recorded, monkeypatch):
    monkeypatch.setattr(install_detectron2, "_install_built", failing("no host"))
    monkeypatch.setattr(install_detectron2, "_install_copy", failing("no index"))
    with pytest.raises(InstallationError, match=r"no host; no index; a checkout or wheel"):
        install()


@pytest.mark.parametrize("source", ["nowhere", "tests", "setup.py"])
def test_a_path_that_is_neither_checkout_nor_wheel_is_rejected(source):
    with pytest.raises(InstallationError, match=f"^{source}: .*; give git, index, or"):
        check_source(source)


def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InstallationError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        check_compiler()


def test_an_unresponsive_repository_times_out_within_seconds(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nexec sleep 60\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(install_detectron2, "_SECONDS_FOR_THE_REPOSITORY", 0.2)
    with pytest.raises(InstallationError, match=r"did not answer in 0\.2 s"):
        check_repository()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Cloning\n  fatal: unable to access 'https://x'\nERROR: exit 128\nnote: x", "fatal: un"),
        ("ERROR: Could not install: [Errno 28] No space left on device\n\n", "ERROR: Could not"),
        ("WARNING: x\nERROR: No matching distribution found\nnote: y", "ERROR: No matching"),
        ("", "pip gave no reason"),
    ],
)
def test_the_reason_is_one_line_of_pips_output(output, expected):
    assert pip_reason(output).startswith(expected)


def test_the_replaced_distribution_is_removed_except_for_shared_files(tmp_path, monkeypatch):
    contents = {COPY_NAME: ("__init__.py", "old.py"), "detectron2": ("__init__.py", "new.py")}
    (tmp_path / "detectron2").mkdir()
    for name, files in contents.items():
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        paths = [f"detectron2/{file}" for file in files]
        for path in paths:
            (tmp_path / path).touch()
        listed = [*paths, f"{info.name}/METADATA", f"{info.name}/RECORD"]
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    install_detectron2._remove(COPY_NAME, replaced_by="detectron2")
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    info = "detectron2-1.0.dist-info"
    shared = {"detectron2/__init__.py", "detectron2/new.py"}
    assert left == {*shared, f"{info}/METADATA", f"{info}/RECORD"}
    assert not (tmp_path / "sal_detectron2-1.0.dist-info").exists()
