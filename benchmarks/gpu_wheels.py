"""Collection of wheels with which gpu_check.py runs offline on a machine with torch and a GPU.

    python benchmarks/gpu_wheels.py --python 3.12 --output wheels

Needs pip, the package wheel and a package index. The folder contains one wheel per package and
stays below 60 MB. Packages that exist only as source are built, and the copy of Detectron2 has no
compiled part. If the total is too large, the largest wheels are compressed with LZMA instead of
deflate. torch, torchvision, NumPy and Pillow must be installed on the machine. --without NAME
leaves out packages that the machine has as well.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 60_000_000  # bytes

PACKAGES = (
    "absl-py",  # tensorboard
    "antlr4-python3-runtime==4.9.3",  # omegaconf and hydra-core
    "cloudpickle",
    "contourpy",  # matplotlib
    "cycler",  # matplotlib
    "fonttools",  # matplotlib
    "fvcore",
    "hydra-core",
    "iniconfig",  # pytest
    "iopath<0.1.10",
    "jinja2",
    "kiwisolver",  # matplotlib
    "lvis",
    "markupsafe",  # jinja2
    "matplotlib",
    "msgspec",
    "omegaconf<2.4",  # later releases need another antlr4
    "opencv-python-headless<4.12",  # later releases are larger
    "packaging",
    "pluggy",  # pytest
    "portalocker",
    "protobuf",  # tensorboard
    "pycocotools",
    "pygments",  # pytest
    "pyparsing",  # matplotlib
    "pytest",
    "python-dateutil",  # matplotlib
    "pyyaml",
    "safetensors",
    "setuptools<81",  # Detectron2 imports pkg_resources, which later releases lack
    "shapely",
    "six",  # python-dateutil
    "tabulate",
    "tensorboard",
    "termcolor",
    "tqdm",
    "typing-extensions",
    "yacs",
)
DETECTRON2 = "detectron2"
PURE = {"fonttools"}
"""Packages used without their compiled part, which makes them about five times smaller."""


def pip(*arguments: str | Path) -> str:
    """Run pip; return the last line of its error output, or an empty string on success."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    finished = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if finished.returncode == 0:
        return ""
    errors = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or ["ERROR: no message"])[-1]


def collect(requirement: str, python: str, machine: str, folder: Path) -> None:
    """Download a wheel for the target Python, or build one from source.

    Raises:
        SystemExit: there is no wheel, or the built one depends on this machine.
    """
    platforms = [f"manylinux{version}_{machine}" for version in ("2014", "_2_17", "_2_28")]
    is_pure = name_of(requirement) in PURE
    target = ["--python-version", python, "--implementation", "py" if is_pure else "cp"]
    for name in ["any"] if is_pure else platforms:
        target += ["--platform", name]
    with tempfile.TemporaryDirectory() as here:
        reason = pip(
            "download", "--no-deps", "--only-binary=:all:", *target, "--dest", here, requirement
        )
        if reason:
            reason = pip("wheel", "--no-deps", "--wheel-dir", here, requirement)
        wheels = sorted(Path(here).glob("*.whl"))
        if reason or not wheels:
            sys.exit(f"gpu_wheels: cannot get {requirement} ({reason})")
        (wheel,) = wheels
        # A wheel built here runs on the target machine only if it is plain Python.
        if "linux_" in wheel.name and "manylinux" not in wheel.name:
            sys.exit(f"gpu_wheels: {wheel.name} was built for this machine, not for {machine}")
        (folder / wheel.name).write_bytes(wheel.read_bytes())


def collect_detectron2(folder: Path) -> None:
    """Put the copy of Detectron2 into the folder, as plain Python."""
    sys.path.insert(0, str(ROOT))  # the project may not be installed here
    from d2_seesaw.install_detectron2 import download_copy

    with tempfile.TemporaryDirectory() as here:
        wheel = download_copy(Path(here))
        (folder / wheel.name).write_bytes(wheel.read_bytes())


def size_of(folder: Path) -> int:
    """Return the total size of all wheels in bytes."""
    return sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))


def recompress(wheel: Path) -> None:
    """Recompress a wheel with LZMA, which Python's zipfile, and thus pip, can read."""
    smaller = wheel.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_LZMA) as new:
        for member in old.infolist():
            new.writestr(member, old.read(member), compress_type=zipfile.ZIP_LZMA)
    smaller.replace(wheel)


def fit(folder: Path, limit: int) -> None:
    """Recompress the largest wheels until all fit.

    Raises:
        SystemExit: the wheels are still too large.
    """
    largest_first = sorted(folder.glob("*.whl"), key=lambda w: w.stat().st_size, reverse=True)
    for wheel in largest_first[:3]:
        if size_of(folder) <= limit:
            return
        print(f"gpu_wheels: compressing {wheel.name}", flush=True)
        recompress(wheel)
    if size_of(folder) > limit:
        largest = ", ".join(f"{w.name} {w.stat().st_size / 1e6:.1f} MB" for w in largest_first[:3])
        sys.exit(
            f"gpu_wheels: {size_of(folder) / 1e6:.1f} MB are more than {limit / 1e6:.0f} MB; "
            f"leave out what the machine has with --without NAME. The largest are {largest}"
        )


def name_of(requirement: str) -> str:
    """Return the package name in a requirement."""
    return requirement.replace("=", "<").split("<")[0]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--python", default="3.12", help="Python version of the GPU machine")
    add("--machine", default="x86_64", help="architecture of the GPU machine")
    add("--output", type=Path, default=Path("wheels"), help="a folder without wheels")
    add(
        "--without", nargs="+", default=[], metavar="NAME", help="packages that the GPU machine has"
    )
    return parser.parse_args()


def main() -> None:
    """Collect the wheels, compress them if needed and print their total size."""
    options = parse_arguments()
    if importlib.util.find_spec("wheel") is None:
        sys.exit(f"gpu_wheels: the package wheel is missing: {sys.executable} -m pip install wheel")
    names = [*map(name_of, PACKAGES), DETECTRON2]
    unknown = sorted(set(options.without) - set(names))
    if unknown:
        sys.exit(f"gpu_wheels: {', '.join(unknown)} would not be collected anyway")
    options.output.mkdir(parents=True, exist_ok=True)
    if any(options.output.glob("*.whl")):
        sys.exit(f"gpu_wheels: {options.output} holds wheels already; give another folder")
    for requirement in PACKAGES:
        if name_of(requirement) not in options.without:
            collect(requirement, options.python, options.machine, options.output)
    if DETECTRON2 not in options.without:
        collect_detectron2(options.output)
    fit(options.output, LIMIT)
    number = len(list(options.output.glob("*.whl")))
    print(f"gpu_wheels: {number} wheels, {size_of(options.output) / 1e6:.1f} MB, {options.output}")


if __name__ == "__main__":
    main()
