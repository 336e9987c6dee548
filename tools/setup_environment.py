"""Make a virtual environment that sees the packages already there, and install what is missing.

Detectron2 is on no package index: it comes from its repository, or from a checkout or wheel given
with ``--detectron2``, and is built without isolation because its build imports torch. Runs with
nothing but Python's standard library.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

# setuptools < 81 has pkg_resources, which detectron2 imports.
BUILD = ["setuptools<81", "wheel", "ninja"]
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "cv2": "opencv-python",
    "lvis": "lvis",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "PIL": "pillow",
    "pycocotools": "pycocotools",
    "timm": "timm",
    "shapely": "shapely",
    "tqdm": "tqdm",
    "pytest": "pytest",
    "xdist": "pytest-xdist",
    "ruff": "ruff",
    "pyright": "pyright",
}


def missing(python: Path, modules: list[str]) -> list[str]:
    """Those of ``modules`` that ``python`` does not find."""
    code = (
        "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
    )
    found = subprocess.run(
        [python, "-c", code, *modules], check=True, capture_output=True, text=True
    )
    return found.stdout.split()


def pip_install(python: Path, *arguments: str, failure: str) -> None:
    """Run ``pip install``, or end with one line that says what could not be had."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    finished = subprocess.run([*command, *arguments], stderr=subprocess.PIPE, text=True)
    if finished.returncode:
        sys.exit(f"setup: {failure} (pip: {reason(finished.stderr)})")


def reason(output: str) -> str:
    """The line of pip's output that says why it failed: git's or pip's error, else the last."""
    lines = output.strip().splitlines() or ["no message"]
    for sign in ("fatal:", "ERROR:"):
        lines = [line for line in lines if sign in line] or lines
    return lines[-1].strip()


def main() -> None:
    """Set up, or find that everything is there."""
    parser = argparse.ArgumentParser(description="Set up a virtual environment for d2_seesaw.")
    parser.add_argument("--venv", default=".venv", help="folder of the virtual environment")
    parser.add_argument("--detectron2", required=True, help="what pip installs detectron2 from")
    args = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036 this runs before pip has checked it
        sys.exit(f"setup: Python 3.10 or later is needed, this is {sys.version.split()[0]}")
    folder = Path(args.venv)
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"setup: making {folder}")
        venv.create(folder, with_pip=True, system_site_packages=True)
    for module in missing(python, list(PACKAGES)):
        print(f"setup: installing {PACKAGES[module]}")
        pip_install(python, PACKAGES[module], failure=f"cannot install {PACKAGES[module]}")
    if missing(python, ["pkg_resources", "wheel", "ninja"]):
        pip_install(python, *BUILD, failure="cannot install " + " ".join(BUILD))
    if missing(python, ["detectron2"]):
        print(f"setup: building detectron2 from {args.detectron2} (some minutes)")
        pip_install(
            python,
            "--no-build-isolation",
            args.detectron2,
            failure=f"cannot install detectron2 from {args.detectron2}; give a checkout or wheel "
            "of it: make ... DETECTRON2=PATH",
        )
    if missing(python, ["d2_seesaw"]) or not (folder / ".ready").exists():
        pip_install(
            python,
            "--no-deps",
            "--no-build-isolation",
            "-e",
            ".",
            failure="cannot install d2_seesaw",
        )
    print("setup: ready")


if __name__ == "__main__":
    main()
