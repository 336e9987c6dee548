"""Installer of Detectron2: ``python -m d2_seesaw.install_detectron2 [git|index|PATH]``.

No package index has Detectron2 under its own name, so pip cannot resolve it. It comes from its
repository, from a checkout or wheel, or from a copy of its Python part on the index. Set-up runs
this module before anything is installed, so it imports the standard library only.
"""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from d2_seesaw.detectron2_origin import (
    COMMIT,
    COPY_COMMIT,
    COPY_LABEL,
    COPY_NAME,
    COPY_SHA256,
    COPY_VERSION,
    REPOSITORY,
    SITE_PACKAGES,
    Installed,
    find_installed,
    finished_distribution,
    unfinished,
)

AT_COMMIT = f"git+{REPOSITORY}@{COMMIT}"
SOURCES = ("auto", "git", "index")
CHOOSE = "git, index, or the path of a checkout or wheel"

_SECONDS_FOR_THE_REPOSITORY = 10
# git gives up on a connection slower than this many bytes per second for this many seconds.
_IMPATIENT_GIT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
    "GIT_HTTP_LOW_SPEED_TIME": str(_SECONDS_FOR_THE_REPOSITORY),
}


class InstallationError(Exception):
    """Failed installation; the message is one line for the user."""


def run_pip(python: str, *arguments: str, failure: str, env: dict[str, str] | None = None) -> None:
    """Run pip and show its progress.

    Args:
        python: interpreter of the environment to install into.
        *arguments: arguments of pip.
        failure: error message, to which pip's own reason is appended.
        env: further environment variables.

    Raises:
        InstallationError: pip failed.
    """
    finished = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
    )
    if finished.returncode:
        raise InstallationError(f"{failure} ({pip_reason(finished.stderr)})")


def pip_reason(output: str) -> str:
    """Return the line of pip's error output that gives the reason."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return "the file on the index does not have the pinned sha256: refused"
    if any("NewConnectionError" in line or "ConnectTimeout" in line for line in lines):
        return "the package index cannot be reached"
    for sign in ("fatal:", "No space left", "ERROR:", "error:"):
        lines = [line for line in lines if sign in line] or lines
    return lines[-1] if lines else "pip gave no reason"


def check_compiler() -> None:
    """Check within seconds that C++ extensions of this Python can be compiled.

    Raises:
        InstallationError: the C++ compiler or the header files of Python are missing.
    """
    compiler = (os.environ.get("CXX") or "c++").split()
    if shutil.which(compiler[0]) is None:
        raise InstallationError(f"there is no C++ compiler ({compiler[0]})")
    include = sysconfig.get_path("include")
    source = "#include <Python.h>\n#include <vector>\n"
    tried = subprocess.run(
        [*compiler, "-x", "c++", "-fsyntax-only", "-I", include, "-"],
        input=source,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if tried.returncode:
        missing = "Python.h" if "Python.h" in tried.stderr else "the standard library's headers"
        raise InstallationError(f"the C++ compiler {compiler[0]} does not find {missing}")


def check_repository() -> None:
    """Check within seconds that Detectron2's repository can be reached.

    Raises:
        InstallationError: git is missing, or the repository cannot be reached.
    """
    if shutil.which("git") is None:
        raise InstallationError("git is not installed")
    try:
        answer = subprocess.run(
            ["git", "ls-remote", REPOSITORY, "HEAD"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS_FOR_THE_REPOSITORY,
            env={**os.environ, **_IMPATIENT_GIT},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise InstallationError(
            f"Detectron2's repository did not answer in {_SECONDS_FOR_THE_REPOSITORY} s"
        ) from None
    if answer.returncode:
        raise InstallationError(
            f"Detectron2's repository cannot be reached: {pip_reason(answer.stderr)}"
        )


def check_source(source: str) -> None:
    """Check that ``source`` is possible, before anything is installed.

    Raises:
        InstallationError: it is neither a keyword nor a checkout, wheel or URL.
    """
    if source in SOURCES or "://" in source:
        return
    path = Path(source)
    if not path.exists():
        raise InstallationError(f"{source}: no such file or folder; give {CHOOSE}")
    for name in ("setup.py", "detectron2/__init__.py"):
        if path.is_dir() and not (path / name).is_file():
            raise InstallationError(
                f"{source}: not a checkout of Detectron2 (it has no {name}); give {CHOOSE}"
            )
    if path.is_file() and path.suffix != ".whl":
        raise InstallationError(f"{source}: not a wheel (.whl); give {CHOOSE}")


def download_copy(folder: Path, python: str = sys.executable) -> Path:
    """Download the copy of Detectron2 from the package index and make a wheel of its Python part.

    pip checks the pinned sha256 of the download. The new wheel lacks the compiled file, the
    top-level package ``tools`` and the requirements (d2_seesaw declares those it needs), fits any
    Python 3, and names its origin in its version and summary. The license is kept. Needs the
    package ``wheel``.

    Args:
        folder: empty folder for temporary files and the new wheel.
        python: interpreter whose pip is used.

    Returns:
        Path of the new wheel.

    Raises:
        InstallationError: the index cannot be reached, lacks the file, or has a different one.
    """
    pinned = folder / "copy.txt"
    pinned.write_text(f"{COPY_NAME}=={COPY_VERSION} --hash=sha256:{COPY_SHA256}\n")
    downloads = folder / "download"
    # The wheel is tagged for CPython 3.10; its Python part runs on later versions too.
    tags = ("--python-version", "3.10", "--implementation", "cp", "--abi", "none")
    run_pip(
        python,
        *("download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", "any", *tags),
        *("--require-hashes", "--requirement", str(pinned), "--dest", str(downloads)),
        failure=f"the copy on the package index ({COPY_NAME} {COPY_VERSION}) cannot be downloaded",
    )
    (wheel,) = downloads.glob("*.whl")
    _run_wheel(python, "unpack", str(wheel), "--dest", str(folder / "unpacked"))
    (root,) = (folder / "unpacked").iterdir()
    _keep_the_python_part(root)
    _run_wheel(python, "pack", str(root), "--dest-dir", str(folder))
    (made,) = folder.glob("*.whl")
    return made


def _run_wheel(python: str, *arguments: str) -> None:
    finished = subprocess.run(
        [python, "-m", "wheel", *arguments], capture_output=True, text=True, errors="replace"
    )
    if finished.returncode:
        raise InstallationError(f"wheel {arguments[0]} failed ({pip_reason(finished.stderr)})")


def _keep_the_python_part(root: Path) -> None:
    """Reduce an unpacked wheel to its Python part, and adapt its metadata."""
    for compiled in root.rglob("*.so"):
        compiled.unlink()
    shutil.rmtree(root / "tools")
    (info,) = root.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    kept = [
        line
        for line in metadata.splitlines()
        if not line.startswith(("Requires-Dist:", "Provides-Extra:", "Version:", "Summary:"))
    ]
    kept[2:2] = [  # behind Metadata-Version and Name
        f"Version: {COPY_LABEL}",
        f"Summary: Detectron2 at commit {COPY_COMMIT[:7]} (April 2024), its Python part alone, "
        f"taken from {COPY_NAME} {COPY_VERSION}",
    ]
    (info / "METADATA").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (info / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: d2_seesaw\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    (info / "top_level.txt").write_text("detectron2\n")
    info.rename(root / f"{COPY_NAME.replace('-', '_')}-{COPY_LABEL}.dist-info")


def install(source: str = "auto") -> str:
    """Install Detectron2 into the environment of this Python.

    Args:
        source: ``git`` (the repository at the pinned commit, compiled here), ``index`` (the copy of
            its Python part), the path of a checkout or wheel, a URL that pip accepts, or ``auto``:
            the installed one, else git, else index. Only ``auto`` falls back.

    Returns:
        One line with the origin of the installed Detectron2 and the reason for it.

    Raises:
        InstallationError: it cannot be installed.
    """
    check_source(source)
    _remove_what_was_interrupted()
    installed = find_installed()
    if installed and installed.comes_from(source):
        return f"{installed} (installed already)"
    why = "as asked"
    if source == "index":
        _install_copy()
    elif source == "auto":
        why = _install_what_can_be_had()
    elif source == "git":
        _install_built(AT_COMMIT)
    else:  # as an absolute path: pip would look up the bare name of a folder on the index
        _install_built(source if "://" in source else str(Path(source).resolve()))
    installed = _now_installed()
    if "://" not in source and not installed.comes_from(source):
        raise InstallationError(
            f"Detectron2 was installed, but {installed.location} hides it; look at PYTHONPATH"
        )
    return f"{installed} ({why})"


def _install_what_can_be_had() -> str:
    """Install from the repository, else the copy; return the reason for the choice."""
    try:
        _install_built(AT_COMMIT)
        return "Detectron2's repository can be reached, and there is a compiler"
    except InstallationError as error:
        reason = str(error)
    try:
        _install_copy()
    except InstallationError as error:
        raise InstallationError(
            f"cannot install Detectron2: {reason}; {error}; "
            "a checkout or wheel of it can be given instead"
        ) from None
    return f"because {reason}"


def _remove_what_was_interrupted() -> None:
    for folder in SITE_PACKAGES:
        for name in ("detectron2", COPY_NAME):
            for info in unfinished(folder, only=name):
                shutil.rmtree(info)


def _now_installed() -> Installed:
    importlib.invalidate_caches()
    installed = find_installed()
    if installed is None:
        raise InstallationError("Detectron2 was installed, but this Python does not find it")
    return installed


def _install_copy() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = download_copy(Path(folder))
        failure = "the copy on the package index cannot be installed"
        arguments = ("--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
        run_pip(sys.executable, "install", *arguments, failure=failure)
    _remove("detectron2", replaced_by=COPY_NAME)


def _install_built(requirement: str) -> None:
    """Build Detectron2 against the torch that is installed, and install it.

    The build imports torch, which is why it is not isolated.
    """
    from_repository = requirement == AT_COMMIT
    if from_repository:
        check_repository()
    if not requirement.endswith(".whl"):
        check_compiler()
        _say("building Detectron2 (some minutes)")
    env = _IMPATIENT_GIT if from_repository else {}
    run_pip(
        sys.executable,
        *("install", "--no-deps", "--no-build-isolation", "--force-reinstall"),
        requirement,
        failure=f"Detectron2 cannot be installed from {requirement}",
        env=env,
    )
    _remove(COPY_NAME, replaced_by="detectron2")


def _remove(package: str, replaced_by: str) -> None:
    """Remove the remains of the distribution that held the same files under another name.

    Called after the installation of the new one, so that a failure leaves the old one intact. A
    distribution outside the virtual environment is kept; the new one hides it.
    """
    importlib.invalidate_caches()
    old, new = finished_distribution(package), finished_distribution(replaced_by)
    if old is None or new is None:
        return
    if not Path(str(old.locate_file(""))).is_relative_to(sys.prefix):
        return
    kept = {Path(str(new.locate_file(file))) for file in new.files or ()}
    for file in old.files or ():
        path = Path(str(old.locate_file(file)))
        if path not in kept:
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _say(line: str) -> None:
    sys.stdout.write(f"setup: {line}\n")
    sys.stdout.flush()


def main() -> None:
    """Install Detectron2 from the source on the command line and print its origin."""
    parser = argparse.ArgumentParser(
        prog="python -m d2_seesaw.install_detectron2",
        description="Install Detectron2 into the environment of this Python.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        default="auto",
        help=f"{CHOOSE}. Default: the installed one, else git, else index",
    )
    try:
        line = install(parser.parse_args().source)
    except InstallationError as error:
        sys.exit(f"setup: {error}")
    except OSError as error:  # a full disk, a folder without write permission
        sys.exit(f"setup: Detectron2 cannot be installed: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; run the same command again to continue")
    _say(line)


if __name__ == "__main__":
    main()
