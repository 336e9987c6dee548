"""Print the versions of everything that matters, where Detectron2 comes from, and what is untested.

Run it as ``python -m d2_seesaw.env``.
"""

import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from d2_seesaw import __version__
from d2_seesaw.detectron2_origin import COMMIT, Installed, find_installed

# Oldest and newest minor versions that were tried; docs/installation.md has the combinations.
TESTED = {
    "python": ("3.10", "3.13"),
    "torch": ("2.11", "2.14"),
    "torchvision": ("0.26", "0.29"),
    "numpy": ("2.2", "2.5"),
    "pillow": ("12.3", "13.0"),
}
OTHERS = ("fvcore", "omegaconf", "hydra-core", "pycocotools", "lvis", "shapely", "timm")
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
GET_DETECTRON2 = "`python -m d2_seesaw.install_detectron2` brings it"


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None if it is not there."""
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def untested(package: str, version: str) -> str | None:
    """Return a warning if the tests were not run with this minor version, else None."""
    oldest, newest = TESTED[package]
    if _minor(oldest) <= _minor(version) <= _minor(newest):
        return None
    return f"{package} {version} is not among the tested versions, {oldest} to {newest}"


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def detectron2_warnings(installed: Installed | None) -> Iterator[str]:
    """Yield what to know of the installed Detectron2, beyond where it comes from."""
    if installed is None:
        yield f"Detectron2 is not installed; {GET_DETECTRON2}"
    elif not installed.is_copy and installed.commit != COMMIT:
        yield (
            f"this Detectron2 is not known to be one of the tested ones, {COMMIT[:7]} of its "
            "repository and the copy on the package index"
        )


def cuda() -> str | None:
    """Return for which CUDA torch was built and which GPUs it sees; None if it does not start."""
    try:
        torch = importlib.import_module("torch")
    except Exception:
        return None
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    return f"torch was {built}; {names or 'no GPU in sight'}"


def main() -> int:
    """Print the table and the warnings; return 1 if something needed is missing."""
    installed = find_installed()
    rows = {"d2_seesaw": f"{__version__}, {Path(__file__).parent}"}
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
    rows["CUDA"] = cuda() or "torch cannot be imported"
    broken = version_of("torch") is not None and cuda() is None
    warnings += ["torch is installed but cannot be imported"] if broken else []
    rows["platform"] = platform.platform()
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    lines += [f"warning: {warning}" for warning in warnings]
    lines += [f"missing: {', '.join(missing)}"] if missing else []
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(missing) or broken or installed is None)


if __name__ == "__main__":
    sys.exit(main())
