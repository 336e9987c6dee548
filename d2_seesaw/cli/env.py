"""Print the versions of all packages and the origin of Detectron2; warn of untested versions.

The exit status is 1 if something required is missing. Runs without PyTorch and Detectron2.

Examples:
  d2-seesaw env
"""

import argparse
import importlib
import importlib.metadata
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import d2_seesaw
from d2_seesaw.cli import command_parser, say
from d2_seesaw.detectron2_origin import COMMIT, NOT_INSTALLED, Installed, find_installed

# Oldest and newest tested minor versions; docs/installation.md has the combinations.
TESTED = {
    "python": ("3.10", "3.13"),
    "torch": ("2.11", "2.14"),
    "torchvision": ("0.26", "0.29"),
    "numpy": ("2.2", "2.5"),
    "pillow": ("12.3", "13.0"),
}
OTHERS = (
    *("fvcore", "omegaconf", "hydra-core", "pycocotools", "lvis", "shapely"),
    *("jinja2", "matplotlib", "msgspec", "timm"),
)
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def version_of(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def untested(package: str, version: str) -> str | None:
    """Return a warning if this minor version was not tested, else None."""
    oldest, newest = TESTED[package]
    if _minor(oldest) <= _minor(version) <= _minor(newest):
        return None
    return f"{package} {version} is not among the tested versions, {oldest} to {newest}"


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def detectron2_warnings(installed: Installed | None) -> Iterator[str]:
    """Yield warnings about the installed Detectron2."""
    if installed is None:
        yield NOT_INSTALLED
    elif not installed.is_copy and installed.commit != COMMIT:
        yield (
            f"this Detectron2 is not one of the tested ones, commit {COMMIT[:7]} of its repository "
            "and the copy on the package index"
        )


def cuda() -> str | None:
    """Describe the CUDA version of torch and the visible GPUs; None if torch cannot be imported."""
    try:
        torch = importlib.import_module("torch")
    except Exception:
        return None
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    return f"torch was {built}; {names or 'no GPU is visible'}"


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    return command_parser("env", __doc__)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and the warnings; return 1 if something required is missing."""
    argument_parser().parse_args(arguments)
    installed = find_installed()
    rows = {"d2_seesaw": f"{d2_seesaw.__version__}, {Path(d2_seesaw.__file__).parent}"}
    missing, warnings = [], list(detectron2_warnings(installed))
    for package in (*TESTED, *OTHERS):
        version = version_of(package)
        rows[package] = version or "not installed"
        if version is None and package != "timm":  # an extra
            missing.append(package)
        elif version and package in TESTED:
            warnings += filter(None, [untested(package, version)])
    opencv = next((name for name in OPENCV if version_of(name)), None)
    rows["opencv"] = f"{version_of(opencv)} ({opencv})" if opencv else "not installed"
    rows["detectron2"] = str(installed or "not installed").removeprefix("Detectron2 ")
    gpus = cuda()
    rows["CUDA"] = gpus or "torch cannot be imported"
    broken = version_of("torch") is not None and gpus is None
    warnings += ["torch is installed but cannot be imported"] if broken else []
    rows["platform"] = platform.platform()
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    lines += [f"warning: {warning}" for warning in warnings]
    lines += [f"missing: {', '.join(missing)}"] if missing else []
    say("\n".join(lines))
    return int(bool(missing) or broken or installed is None)
