"""Logic of the check for machines with a GPU, tested without one."""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_wheels

ROOT = Path(__file__).parents[2]
# Modules whose package has another name.
PACKAGE_OF = {
    "antlr4": "antlr4-python3-runtime",
    "cv2": "opencv-python-headless",
    "hydra": "hydra-core",
    "yaml": "pyyaml",
}
# Installed with torch, optional in our code, or our own.
NOT_CARRIED = {"torch", "torchvision", "triton", "numpy", "PIL", "timm", "wandb", "mlflow"}
NOT_CARRIED |= {"numba", "onnxruntime", "segmentation_models_pytorch"}
OURS = {"d2_seesaw", "train_net", "tests", *(p.stem for p in ROOT.glob("benchmarks/*.py"))}


def part(tmp_path: Path, name: str, code: str, limit: float = 60.0) -> gpu_check.Part:
    """Make a part that runs ``code``, which writes its result to the path ``result``."""
    result = tmp_path / f"{name}.json"
    code = f"import pathlib; result = pathlib.Path({str(result)!r})\n{code}"
    return gpu_check.Part(name, ["-c", code], limit, result)


def run(tmp_path: Path, *parts: gpu_check.Part, seconds: float = 60.0) -> list[dict]:
    deadline = time.monotonic() + seconds
    return list(gpu_check.run_parts(list(parts), tmp_path, dict(os.environ), deadline))


TORCH_WITHOUT_GPU = """
__version__ = "2.11.0"
class version:
    cuda = "13.0"
class cuda:
    is_available = staticmethod(lambda: False)
"""


@pytest.mark.parametrize(
    ("torch", "reason"),
    [
        (TORCH_WITHOUT_GPU, "torch 2.11.0 sees no GPU"),
        ("import nothing_like_it", "nothing_like_it"),
    ],
    ids=["no GPU", "broken torch"],
)
def test_without_cuda_the_check_says_so_and_does_nothing(torch, reason, tmp_path):
    (tmp_path / "torch.py").write_text(torch)
    output = tmp_path / "result.json"
    command = [sys.executable, "benchmarks/gpu_check.py", str(tmp_path), "--output", str(output)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpu_check: no CUDA here, ")
    assert reason in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["torch.py"]


def test_a_failing_part_is_in_the_result_and_does_not_stop_the_others(tmp_path, capsys):
    good = "result.write_text('{\"rows\": [1]}')"
    found = run(
        tmp_path,
        part(tmp_path, "first", good),
        part(tmp_path, "second", good + "; raise ValueError('too large')"),
        part(tmp_path, "third", "pass"),
        part(tmp_path, "fourth", 'result.write_text(\'{"passed": 0, "skipped": 81}\')'),
        part(tmp_path, "fifth", good),
    )
    result = {"parts": []}
    for each in found:
        gpu_check.add(result, each)
    gpu_check.write(result, tmp_path / "gpu_check.json", finished=True)
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert written["status"] == "failed"
    statuses = [each["status"] for each in written["parts"]]
    assert statuses == ["passed", "failed", "failed", "failed", "passed"]
    _, second, third, fourth, fifth = written["parts"]
    assert second["output"][-1] == "ValueError: too large"
    assert second["figures"] == {"rows": [1]}
    assert third["reason"] == "it wrote no result"
    assert fourth["reason"] == "no test was run"
    assert fifth["figures"] == {"rows": [1]}


def ends_within(seconds: float, pid: int) -> bool:
    """Wait for the end of a process that has been killed, or is being killed."""
    command = Path(f"/proc/{pid}/cmdline")
    for _ in range(int(10 * seconds)):
        try:
            if not command.read_bytes():  # a zombie that has not been waited for yet
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_part_beyond_its_limit_ends_with_its_children(tmp_path):
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
result.write_text('%d' % child.pid)
time.sleep(60)
"""
    (found,) = run(tmp_path, part(tmp_path, "slow", code, limit=1.5))
    assert found["status"] == "timed out"
    assert "more than its 2 s" in found["reason"]
    assert 1 < found["seconds"] < 10
    assert ends_within(5, found["figures"])


def test_an_interrupted_check_leaves_an_unfinished_result(tmp_path):
    path = tmp_path / "gpu_check.json"
    gpu_check.write({"parts": [{"part": "tests", "status": "passed"}]}, path, finished=False)
    assert json.loads(path.read_text())["status"] == "unfinished"


def test_parts_without_time_left_are_reported(tmp_path):
    (found,) = run(tmp_path, part(tmp_path, "late", "pass"), seconds=0.5)
    assert found == {"part": "late", "status": "not run", "reason": "no time was left"}


def trained(precision: str, **changes) -> dict:
    figures = {
        "precision": precision,
        "class_counts": [3, 1, 8],
        "labels_sha256": "a",
        "sampled_rois": 12,
        "loss_of_first_step": 2.0,
    }
    figures |= changes
    return {"part": f"training {precision}", "status": "passed", "figures": figures}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"loss_of_first_step": 2.01}, None),
        ({"loss_of_first_step": 2.1}, "the first loss differs"),
        ({"class_counts": [3, 2, 7]}, "class_counts of float16 is not that of float32"),
        ({"labels_sha256": "b"}, "labels_sha256 of float16 is not that of float32"),
    ],
)
def test_the_three_precisions_are_compared(changes, reason):
    parts = [trained("float32"), trained("float16", **changes), trained("bfloat16")]
    found = gpu_check.compare_trainings(parts)
    assert found["status"] == ("failed" if reason else "passed")
    assert (reason or "") in found.get("reason", "")


def test_a_precision_that_was_not_trained_is_not_the_same():
    parts = [trained("float32"), trained("bfloat16") | {"status": "timed out"}]
    assert gpu_check.compare_trainings(parts)["reason"] == "trained: float32"


def test_the_result_has_all_parts_and_the_comparison(tmp_path, monkeypatch):
    parts = []
    for precision in gpu_check.PRECISIONS:
        text = json.dumps(trained(precision)["figures"])
        parts.append(part(tmp_path, f"training {precision}", f"result.write_text({text!r})"))
    parts.append(part(tmp_path, "evaluation", "result.write_text('{}')"))
    monkeypatch.setattr(gpu_check, "check_parts", lambda work, device: parts)
    monkeypatch.setattr(gpu_check, "NEEDED", {})
    options = argparse.Namespace(
        wheels=None, device="cuda", benchmarks=False, output=tmp_path / "gpu_check.json"
    )
    found = gpu_check.check(options, {"name": "a card"}, tmp_path, time.monotonic())
    assert found == json.loads(options.output.read_text())
    assert found["status"] == "passed"
    assert [each["part"] for each in found["parts"]] == [
        "packages",
        *(f"training {precision}" for precision in gpu_check.PRECISIONS),
        "class counts",
        "evaluation",
    ]


def wheel(folder: Path, name: str, files: dict[str, str], tags: str = "py3-none-any") -> Path:
    path = folder / f"{name}-1.0-{tags}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_wheels_are_unpacked_only_where_their_modules_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "NEEDED", {"absent_here": "absent-here"})
    wheels, packages = tmp_path / "wheels", tmp_path / "packages"
    wheels.mkdir()
    wheel(wheels, "json", {"json/__init__.py": "", "json-1.0.dist-info/RECORD": ""})
    # A namespace package is present only if its contents are.
    files = {"json_space/part/__init__.py": "", "absent_here.py": "value = 1", "bin/run.py": ""}
    wheel(wheels, "absent", files | {"absent-1.0.data/purelib/other.py": ""})
    env = os.environ | {"PYTHONPATH": str(packages)}
    unpacked = gpu_check.unpack_what_is_missing(wheels, packages, env)
    assert unpacked == ["absent-1.0-py3-none-any.whl"]
    assert (packages / "json_space/part/__init__.py").exists()
    assert (packages / "other.py").exists()
    assert not (packages / "json").exists()


def test_packages_neither_installed_nor_carried_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "NEEDED", {"absent_here": "absent-here"})
    options = argparse.Namespace(
        wheels=None, device="cpu", benchmarks=False, output=tmp_path / "gpu_check.json"
    )
    found = gpu_check.check(options, {}, tmp_path, time.monotonic())
    assert found == json.loads(options.output.read_text())
    assert found["status"] == "failed"
    (packages,) = found["parts"]
    assert packages["reason"].startswith("missing here: absent_here. gpu_wheels.py collects absent")
    with pytest.raises(gpu_check.CheckError, match="there are no wheels in"):
        gpu_check.unpack_what_is_missing(tmp_path, tmp_path, dict(os.environ))
    wheel(tmp_path, "absent", {"absent_here.py": ""}, tags="cp27-cp27m-any")
    with pytest.raises(gpu_check.CheckError, match=r"not for Python .*: absent-1\.0-cp27"):
        gpu_check.unpack_what_is_missing(tmp_path, tmp_path, dict(os.environ))


def imported(path: Path) -> set[str]:
    """Return the packages that a file imports, inside of functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_everything_imported_on_the_other_machine_is_carried_there():
    files = [ROOT / "train_net.py", *ROOT.glob("d2_seesaw/**/*.py"), *ROOT.glob("tests/gpu/*.py")]
    files += ROOT.glob("benchmarks/gpu_*.py")
    names = set().union(*map(imported, files)) - OURS - NOT_CARRIED - set(sys.stdlib_module_names)
    carried = {gpu_wheels.name_of(each) for each in gpu_wheels.PACKAGES} | {gpu_wheels.DETECTRON2}
    assert {PACKAGE_OF.get(name, name) for name in names} <= carried
    assert set(filter(None, gpu_check.NEEDED.values())) <= carried


def test_tests_marked_gpu_are_in_the_folder_that_the_check_runs():
    marked = {path for path in ROOT.glob("tests/**/*.py") if "mark.gpu" in path.read_text()}
    assert {path.parent for path in marked} - {Path(__file__).parent} == {ROOT / "tests/gpu"}


def test_too_much_to_carry_is_an_error_that_names_the_largest(tmp_path):
    wheel(tmp_path, "large", {"large.py": "x" * 10})
    with pytest.raises(SystemExit, match=r"--without NAME\. The largest are large-1\.0"):
        gpu_wheels.fit(tmp_path, 10)


def test_wheels_are_compressed_only_if_they_are_too_large(tmp_path):
    path = tmp_path / "large-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("large.py", "value = 1\n" * 1000)
    before = path.read_bytes()
    gpu_wheels.fit(tmp_path, len(before))
    assert path.read_bytes() == before
    gpu_wheels.fit(tmp_path, 1000)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("large.py") == b"value = 1\n" * 1000


def test_a_rehearsal_has_the_parts_of_the_check(tmp_path):
    on_cuda, on_cpu = (gpu_check.check_parts(tmp_path, device) for device in ("cuda", "cpu"))
    assert [each.name for each in on_cuda] == [each.name for each in on_cpu]
    for each in on_cuda:
        script = next(a for a in each.command if a.endswith(".py") or a == "pytest")
        assert script == "pytest" or (ROOT / script).is_file()


@pytest.mark.parametrize("group", gpu_check.GROUPS)
def test_each_group_of_long_benchmarks_fits_into_a_call_of_five_minutes(group, tmp_path):
    parts = gpu_check.benchmark_parts(tmp_path, "cuda", group)
    assert sum(each.limit for each in parts) <= gpu_check.CHECK_SECONDS - 20 < 300
    rehearsed = gpu_check.benchmark_parts(tmp_path, "cpu", group)
    assert [each.name for each in parts] == [each.name for each in rehearsed]
    assert all((ROOT / each.command[0]).is_file() for each in parts)
    options = argparse.Namespace(benchmarks=group, device="cuda")
    assert gpu_check.requested_parts(options, tmp_path) == parts
    assert gpu_check.seconds_of(options) == gpu_check.CHECK_SECONDS


def test_all_long_benchmarks_are_those_of_both_groups(tmp_path):
    options = argparse.Namespace(benchmarks="all", device="cuda")
    names = [each.name for each in gpu_check.requested_parts(options, tmp_path)]
    losses, training = (
        [each.name for each in gpu_check.benchmark_parts(tmp_path, "cuda", group)]
        for group in ("losses", "training")
    )
    assert names == losses + training
    assert gpu_check.seconds_of(options) == 2 * gpu_check.CHECK_SECONDS < 600


def test_the_output_of_a_training_is_its_newest_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1, "total_loss": 2.0}\n{"iteration": 2, "segm/AP": 5.0}\n')
    found = gpu_check.read_result(path)
    assert found == {"iteration": 2, "total_loss": 2.0, "segm/AP": 5.0}


def test_options_of_the_wheels_that_name_nothing_are_refused(monkeypatch, tmp_path):
    options = argparse.Namespace(without=["opencv"], output=tmp_path, python="3.12", machine="x")
    monkeypatch.setattr(gpu_wheels, "parse_arguments", lambda: options)
    with pytest.raises(SystemExit, match="opencv would not be collected anyway"):
        gpu_wheels.main()
