"""Check of the project on a machine with a GPU, offline, within five minutes, into a JSON file.

    python benchmarks/gpu_check.py wheels
    python benchmarks/gpu_check.py wheels --benchmarks losses --output gpu_losses.json
    python benchmarks/gpu_check.py wheels --benchmarks training --output gpu_training.json

Needs only Python and torch with CUDA. Other missing packages come from a folder of wheels that
gpu_wheels.py collects elsewhere. They are unpacked into a temporary folder, so nothing is
installed. Packages that the machine has are used as they are.

It runs the tests marked gpu, trains 50 steps in float32, float16 and bfloat16, compares their class
counts, evaluates on the GPU and on the CPU, runs train_net.py, and runs the benchmarks that have
GPU results in the README. With --benchmarks it only runs longer benchmarks, in two calls of five
minutes each: losses, masks and their encoding, or training and inference. --benchmarks without a
group runs both, in ten minutes. Each part has a time limit. If a part fails, the others still run
and the exit status is 1.

Without CUDA it prints a message and exits with 0. --device cpu runs everything on the CPU, with
fewer steps and smaller sizes.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
CHECK_SECONDS, REHEARSAL_SECONDS = 285.0, 3600.0
GROUPS = ("losses", "training")
"""Groups of long benchmarks. The limits of their parts leave 20 s of a call for the packages."""
PRECISIONS = ("float32", "float16", "bfloat16")
LOSS_TOLERANCE = 0.01
"""Relative tolerance of the first step's loss compared to float32, on the same RoIs."""

# Required modules, with their package names in gpu_wheels.py.
NEEDED = {
    "cv2": "opencv-python-headless",
    "detectron2": "detectron2",
    "fvcore": "fvcore",
    "hydra": "hydra-core",
    "lvis": "lvis",
    "matplotlib": "matplotlib",
    "numpy": "",
    "omegaconf": "omegaconf",
    "PIL": "",
    "pkg_resources": "setuptools",
    "pycocotools": "pycocotools",
    "pytest": "pytest",
    "shapely": "shapely",
    "tabulate": "tabulate",
    "tensorboard": "tensorboard",
    "torch": "",
    "torchvision": "",
    "yaml": "pyyaml",
}
VERSIONS = (
    "torch", "torchvision", "numpy", "pillow", "detectron2", "sal-detectron2", "fvcore",
    "omegaconf", "opencv-python", "opencv-python-headless", "pycocotools", "lvis", "pytest",
)  # fmt: skip

PROBE = """
import json
try:
    import torch
except ImportError as error:
    print(json.dumps({"reason": f"torch cannot be imported ({error})"}))
    raise SystemExit
found = {"torch": torch.__version__, "cuda": torch.version.cuda}
if not torch.cuda.is_available():
    found["reason"] = f"torch {torch.__version__} sees no GPU"
else:
    card = torch.cuda.get_device_properties(0)
    found |= {
        "name": card.name,
        "memory_MB": round(card.total_memory / 1e6),
        "capability": f"{card.major}.{card.minor}",
        "cudnn": torch.backends.cudnn.version(),
        "count": torch.cuda.device_count(),
    }
print(json.dumps(found))
"""
FIND = """
import importlib.util, json, sys
def is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
print(json.dumps({name: is_there(name) for name in json.loads(sys.argv[1])}))
"""
FIND_VERSIONS = """
import importlib.metadata, json, platform, sys
def version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
found = {name: version_of(name) for name in json.loads(sys.argv[1])}
print(json.dumps({"python": platform.python_version(), **{k: v for k, v in found.items() if v}}))
"""


class CheckError(Exception):
    """Error that makes all checks impossible; the message is one line."""


# --- packages ---


def modules_of(wheel: Path) -> set[str]:
    """Return the names under which the packages of a wheel are imported.

    For a namespace package, such as ``google`` of protobuf, return the packages in it.
    """
    with zipfile.ZipFile(wheel) as archive:
        paths = [PurePosixPath(name) for name in archive.namelist()]
    packages = {path.parent.parts for path in paths if path.name == "__init__.py"}
    outermost = {p for p in packages if not any(p[:i] in packages for i in range(1, len(p)))}
    modules = {(path.stem,) for path in paths if len(path.parts) == 1 and path.suffix == ".py"}
    names = {".".join(parts) for parts in outermost | modules if parts}
    return {name for name in names if all(part.isidentifier() for part in name.split("."))}


def fits(wheel: Path) -> bool:
    """Return whether a wheel is made for this Python and this machine."""
    python, abi, system = (tag.split(".") for tag in wheel.stem.split("-")[-3:])
    major, minor = sys.version_info[:2]
    stable = "abi3" in abi and any(f"cp{major}{older}" in python for older in range(minor + 1))
    is_for_python = f"py{major}" in python or f"cp{major}{minor}" in python or stable
    is_for_system = "any" in system or any(tag.endswith(platform.machine()) for tag in system)
    return is_for_python and is_for_system


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the modules of a wheel, without its scripts."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            parts = PurePosixPath(member.filename).parts
            if parts[0].endswith(".data"):
                if parts[1:2] not in (("purelib",), ("platlib",)):
                    continue
                parts = parts[2:]
            if member.is_dir() or ".." in parts:
                continue
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def present(modules: Iterable[str], env: dict[str, str]) -> dict[str, bool]:
    """Return for each module name whether Python finds it."""
    return json.loads(run_python(FIND, env, json.dumps(sorted(modules))))


def unpack_what_is_missing(wheels: Path | None, folder: Path, env: dict[str, str]) -> list[str]:
    """Unpack the wheels whose modules this Python lacks; return their names.

    Raises:
        CheckError: a module is missing and has no wheel, or its wheel does not fit this machine.
    """
    files = sorted(wheels.glob("*.whl")) if wheels else []
    if wheels and not files:
        raise CheckError(f"there are no wheels in {wheels}; gpu_wheels.py collects them")
    modules = {wheel: modules_of(wheel) for wheel in files}
    there = present(set().union(*modules.values()), env)
    lacking = [wheel for wheel in files if not all(there[name] for name in modules[wheel])]
    unfit = [wheel.name for wheel in lacking if not fits(wheel)]
    if unfit:
        raise CheckError(f"not for Python {platform.python_version()} here: {', '.join(unfit)}")
    for wheel in lacking:
        unpack(wheel, folder)
    missing = [name for name, found in present(NEEDED, env).items() if not found]
    if missing:
        raise CheckError(
            f"missing here: {', '.join(missing)}. gpu_wheels.py collects "
            f"{', '.join(NEEDED[name] for name in missing if NEEDED[name]) or 'none of them'}"
        )
    return [wheel.name for wheel in lacking]


# --- information about this machine ---


def run_python(code: str, env: dict[str, str], *arguments: str) -> str:
    """Run Python code in a separate process; return the last line of its output."""
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckError(f"{sys.executable} fails: {reason}")
    return finished.stdout.splitlines()[-1]


def driver_version() -> str | None:
    """Return the driver version from nvidia-smi, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = finished.stdout.splitlines()
    return lines[0].strip() if finished.returncode == 0 and lines else None


def commit() -> str | None:
    """Return the checked-out commit, or None without git."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    finished = subprocess.run(command, capture_output=True, text=True)
    return finished.stdout.strip() if finished.returncode == 0 else None


# --- parts ---


@dataclass(frozen=True)
class Part:
    """One process of the check.

    Attributes:
        name: name in the result.
        command: arguments of the Python interpreter.
        limit: seconds after which the process is killed.
        result: file that the process writes.
    """

    name: str
    command: list[str]
    limit: float
    result: Path


def run_part(part: Part, work: Path, env: dict[str, str], seconds_left: float) -> dict[str, Any]:
    """Run one part within its limit; return its status, seconds and figures."""
    limit = min(part.limit, seconds_left)
    if limit < 1:
        return {"part": part.name, "status": "not run", "reason": "no time was left"}
    log = work / f"{part.name.replace(' ', '_')}.log"
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its child processes can be killed with it
        )
        timed_out = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            end_group(process)
    found: dict[str, Any] = {"part": part.name, "seconds": round(time.monotonic() - start, 1)}
    figures = read_result(part.result)
    status, reason = "failed", f"exit status {process.returncode}"
    if timed_out:
        status, reason = "timed out", f"more than its {limit:.0f} s"
    elif process.returncode == 0:
        reason = missing_evidence(figures)
        if reason is None:
            return found | {"status": "passed", "figures": figures}
    last_lines = log.read_text(errors="replace").splitlines()[-40:]
    found |= {"status": status, "reason": reason, "output": last_lines}
    return found if figures is None else found | {"figures": figures}


def end_group(process: subprocess.Popen) -> None:
    """Kill a process, if it still runs, and its child processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def missing_evidence(figures: dict[str, Any] | None) -> str | None:
    """Return why the figures of a successful part prove nothing; None if they are sufficient."""
    if figures is None:
        return "it wrote no result"
    if figures.get("passed") == 0:
        return "no test was run"
    return None


def read_result(path: Path) -> dict[str, Any] | None:
    """Read the result of a part; None if there is none.

    It is JSON (for training metrics, one object per line) or pytest's XML.
    """
    try:
        if path.suffix == ".xml":
            return tests_of(path)
        if path.name != "metrics.json":
            return json.loads(path.read_text())
        newest: dict[str, Any] = {}
        for line in path.read_text().splitlines():
            newest |= json.loads(line)
        return newest
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def tests_of(path: Path) -> dict[str, Any]:
    """Count the tests in pytest's XML file and list failures with their reasons."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = {
        f"{case.get('classname')}::{case.get('name')}": problem.get("message", "")[:500]
        for case in cases
        for problem in case
        if problem.tag in ("failure", "error")
    }
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "tests": len(cases),
        "passed": len(cases) - len(failed) - skipped,
        "failed": len(failed),
        "skipped": skipped,
        "failures": failed,
    }


def check_parts(work: Path, device: str) -> list[Part]:
    """List the parts of the check, the most important ones first."""
    steps = "3" if device == "cpu" else "50"
    tests = work / "tests.xml"
    longer = limit_factor(device)
    pytest = ["-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    parts = [Part("tests", [*pytest, f"--junitxml={tests}"], 110 * longer, tests)]
    script = str(ROOT / "benchmarks/gpu_training.py")
    checkpoint = work / "float32.pth"
    for precision in PRECISIONS:
        result = work / f"{precision}.json"
        command = [script, "train", "--precision", precision, "--steps", steps]
        command += ["--device", device, "--json", str(result)]
        if precision == "float32":
            command += ["--checkpoint", str(checkpoint)]
        parts.append(Part(f"training {precision}", command, 45 * longer, result))
    result = work / "evaluation.json"
    command = [script, "evaluate", "--device", device, "--checkpoint", str(checkpoint)]
    parts.append(
        Part("evaluation", [*command, "--json", str(result)], 45 * longer, result),
    )
    parts.append(command_part(work, device, 60 * longer))
    return parts + benchmark_parts(work, device)


def limit_factor(device: str) -> float:
    """Return the factor of all time limits: half precision on a CPU takes seconds per step."""
    return 4.0 if device == "cpu" else 1.0


def command_part(work: Path, device: str, limit: float) -> Part:
    """Return a short run of train_net.py, with checkpoint, log and evaluation."""
    output = work / "train_net"
    steps = 2 if device == "cpu" else 20
    precision = "bfloat16" if device == "cpu" else "float16"
    command = ["train_net.py", "--config-file", "configs/quickstart/seesaw.py", "--restart"]
    command += [f"train.output_dir={output}", f"train.device={device}", f"train.max_iter={steps}"]
    command += ["train.amp.enabled=True", f"train.amp.dtype={precision}", "train.log_period=1"]
    command += ["train.prefetch_to_device=True", "optimizer.fused=True"]
    return Part("train_net.py", command, limit, output / "metrics.json")


def benchmark_parts(work: Path, device: str, group: str = "") -> list[Part]:
    """List the benchmarks that support GPUs.

    Args:
        work: folder for the results.
        device: cuda or cpu.
        group: one of ``GROUPS``; without a group, short runs of those of losses and masks.
    """
    arguments = speed_arguments(device) if group == "training" else loss_arguments(device, group)
    parts = []
    for name, (script, limit, given) in arguments.items():
        result = work / f"{name.replace(' ', '_')}.json"
        command = [str(ROOT / f"benchmarks/{script}.py"), *given, "--device", device]
        limit *= limit_factor(device)
        part = Part(f"benchmark {name}", [*command, "--json", str(result)], limit, result)
        parts.append(part)
    return parts


Arguments = dict[str, tuple[str, float, list[str]]]
"""Script, limit in seconds and arguments of each benchmark."""


def speed_arguments(device: str) -> Arguments:
    """Return the benchmarks of training and inference, which leave out what does not fit."""
    training, inference = ["--rounds", "5", "--seconds", "110"], ["--rounds", "5"]
    if device == "cpu":
        training, inference = ["--rehearse"], ["--rehearse"]
    # A case that has begun before 110 s is finished.
    return {
        "training_speed": ("training_speed", 185.0, training),
        "inference_speed": ("inference_speed", 80.0, inference),
    }


def loss_arguments(device: str, group: str) -> Arguments:
    """Return the benchmarks of losses and masks."""
    # The long group has six parts.
    rounds, limit = (["--rounds", "31"], 44.0) if group else (["--rounds", "3"], 45.0)
    of_masks = ["--rounds", "15" if group else "3"]
    # Seesaw's class loss and its kernel: where launches dominate, and where the bandwidth does.
    class_losses = {"class loss 512": ["--rois", "512", "--classes", "1203"]}
    if group:
        class_losses["class loss 16384"] = ["--rois", "16384", "--classes", "8192"]
    given = {"classification_losses": ["--rois", "1024"], "mask_predictor": []}
    given |= {"dense_losses": []}
    detections: list[str] = []
    if device == "cpu":
        class_losses = {name: ["--rois", "64", "--classes", "99"] for name in class_losses}
        given["classification_losses"] = ["--rois", "64"]
        given["mask_predictor"] = ["--rois", "4"]
        given["dense_losses"] = ["--size", "64", "128"]
        detections = ["--detections", "20"]
    arguments: Arguments = {name: (name, limit, [*given[name], *rounds]) for name in given}
    arguments["mask_rle"] = ("mask_rle", limit, [*detections, *of_masks])
    for name, sizes in class_losses.items():
        command = ["--class-loss", *sizes, *rounds]
        arguments[name] = ("classification_losses", limit, command)
    return arguments


def compare_trainings(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare class counts, labels and first losses between the three precisions."""
    trained = {
        part["figures"]["precision"]: part["figures"]
        for part in found
        if part["part"].startswith("training ") and part["status"] == "passed"
    }
    result: dict[str, Any] = {"part": "class counts", "status": "failed"}
    if set(trained) != set(PRECISIONS):
        return result | {"reason": f"trained: {', '.join(trained) or 'nothing'}"}
    exact = trained["float32"]
    reasons = []
    for precision, figures in trained.items():
        for key in ("class_counts", "labels_sha256"):
            if figures[key] != exact[key]:
                reasons.append(f"{key} of {precision} is not that of float32")
    first = {name: figures["loss_of_first_step"] for name, figures in trained.items()}
    differences = {name: abs(loss / first["float32"] - 1) for name, loss in first.items()}
    if max(differences.values()) > LOSS_TOLERANCE:
        reasons.append(f"the first loss differs by more than {LOSS_TOLERANCE}")
    figures = {
        "class_counts": exact["class_counts"],
        "sampled_rois": exact["sampled_rois"],
        "difference_of_first_loss": differences,
    }
    if reasons:
        return result | {"reason": "; ".join(reasons), "figures": figures}
    return result | {"status": "passed", "figures": figures}


def run_parts(
    parts: list[Part], work: Path, env: dict[str, str], deadline: float
) -> Iterator[dict[str, Any]]:
    """Run all parts until ``deadline`` on the monotonic clock; yield each result."""
    for part in parts:
        yield run_part(part, work, env, deadline - time.monotonic())


# --- the complete check ---


def environment(work: Path, device: str) -> dict[str, str]:
    """Return the environment variables of the parts, which write into ``work``."""
    paths = [str(work / "packages"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPYCACHEPREFIX": str(work / "bytecode"),
        "DETECTRON2_DATASETS": str(work / "datasets"),
        "XDG_CACHE_HOME": str(work / "cache"),
        "MPLCONFIGDIR": str(work / "matplotlib"),
        "D2_SEESAW_TEST_DEVICE": device,
    }


def write(result: dict[str, Any], path: Path, *, finished: bool) -> None:
    """Write the result atomically, so that an interrupted check leaves its earlier results."""
    result["status"] = "passed" if finished else "unfinished"
    if any(part["status"] != "passed" for part in result["parts"]):
        result["status"] = "failed"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def check(
    options: argparse.Namespace, device: dict[str, Any], work: Path, start: float
) -> dict[str, Any]:
    """Run all parts; write and return the result.

    Args:
        options: command-line options.
        device: properties of the GPU, for the result.
        work: an empty folder.
        start: start of the check on the monotonic clock.
    """
    env = environment(work, options.device)
    result: dict[str, Any] = {"device": device, "commit": commit(), "parts": []}
    can_run = add(result, packages_part(options.wheels, work, env))
    parts = requested_parts(options, work) if can_run else []
    for found in run_parts(parts, work, env, start + seconds_of(options)):
        add(result, found)
        if found["part"] == f"training {PRECISIONS[-1]}":
            add(result, compare_trainings(result["parts"]))
        write(result, options.output, finished=False)
    result["seconds"] = round(time.monotonic() - start, 1)
    write(result, options.output, finished=True)
    return result


def requested_parts(options: argparse.Namespace, work: Path) -> list[Part]:
    """List the parts that the command line requests."""
    if options.benchmarks:
        groups = GROUPS if options.benchmarks == "all" else (options.benchmarks,)
        return [part for group in groups for part in benchmark_parts(work, options.device, group)]
    return check_parts(work, options.device)


def seconds_of(options: argparse.Namespace) -> float:
    """Return the time limit of the whole check in seconds."""
    if options.device == "cpu":
        return REHEARSAL_SECONDS
    return CHECK_SECONDS * (len(GROUPS) if options.benchmarks == "all" else 1)


def packages_part(wheels: Path | None, work: Path, env: dict[str, str]) -> dict[str, Any]:
    """Unpack missing packages; return the status and the versions of all packages used."""
    start = time.monotonic()
    found: dict[str, Any] = {"part": "packages"}
    try:
        unpacked = unpack_what_is_missing(wheels, work / "packages", env)
        versions = json.loads(run_python(FIND_VERSIONS, env, json.dumps(VERSIONS)))
    except CheckError as error:
        return found | {"status": "failed", "reason": str(error)}
    return found | {
        "status": "passed",
        "seconds": round(time.monotonic() - start, 1),
        "figures": {"versions": versions, "unpacked": unpacked},
    }


def add(result: dict[str, Any], found: dict[str, Any]) -> bool:
    """Add and print the result of a part; return whether it passed."""
    result["parts"].append(found)
    seconds = f"{found['seconds']:6.1f} s" if "seconds" in found else " " * 8
    print(
        f"{found['part']:26} {found['status']:10} {seconds}  {found.get('reason', '')}", flush=True
    )
    return found["status"] == "passed"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_argument = parser.add_argument
    add_argument("wheels", type=Path, nargs="?", help="folder from gpu_wheels.py")
    add_argument("--output", type=Path, default=Path("gpu_check.json"))
    add_argument(
        "--benchmarks",
        nargs="?",
        choices=[*GROUPS, "all"],
        const="all",
        help="run only the benchmarks, longer: of one group, or all (default)",
    )
    add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: dry run without a GPU"
    )
    add_argument("--work", type=Path, help="keep data, logs and packages in this new folder")
    return parser.parse_args()


def main() -> int:
    """Run the check; return the exit status."""
    start = time.monotonic()
    options = parse_arguments()
    options.output = options.output.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary) / "work").absolute()
        try:
            device = json.loads(run_python(PROBE, dict(os.environ)))
            if options.device == "cuda" and "reason" in device:
                print(f"gpu_check: no CUDA here, {device['reason']}: nothing was checked")
                return 0
            device |= {"used": options.device, "driver": driver_version()}
            work.mkdir(parents=True)
            result = check(options, device, work, start)
        except (CheckError, OSError, subprocess.TimeoutExpired) as error:
            print(f"gpu_check: {error}", file=sys.stderr)
            return 2
    print(f"{options.output}: {result['status']} after {result['seconds']} s")
    return int(result["status"] != "passed")


if __name__ == "__main__":
    sys.exit(main())
