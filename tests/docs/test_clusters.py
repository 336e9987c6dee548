"""Batch scripts of the page on clusters, with stand-ins for SLURM's commands."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.support.markdown import ROOT, code_blocks
from tests.support.trainings import SMALL, generate_small_data

SCRIPTS = {b.title: b.text for b in code_blocks(ROOT / "docs/clusters.md", "sh")}
HEAD = "export OUTPUT=output/lvis HEAD=localhost\n"
SRUN = '#!/bin/bash\nexec "$@"\n'
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf '%s\\n' first second; else echo "$@" >> requeued; fi
"""
# Saves at a signal in 0.3 s, as the training does; its status is $STATUS or that of the signal. No
# $(...) stands behind the traps: bash parses a trap wrongly while it reads the output of a command.
TRAINING = """#!/bin/bash
echo "$0 $*" >> started
save() { trap '' USR1 TERM; sleep 0.3; mkdir -p output/lvis; echo x > output/lvis/last_checkpoint;
  exit "${STATUS:-$1}"; }
trap 'save 138' USR1
trap "save ${TERMINATED:-143}" TERM
echo ready > ready
for ((i = 0; i < 50; i++)); do sleep 0.1; done
exit "$STATUS"
"""


@pytest.fixture
def job(tmp_path):
    """Set up stand-ins; ``run`` starts a script as SLURM does, on one node of two."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def stand_in(name, text):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    stand_in("srun", SRUN)
    stand_in("scontrol", SCONTROL)
    for name in ("d2-seesaw", "torchrun"):
        stand_in(name, TRAINING)

    def run(script, number=None, change=lambda text: text, **variables):
        text = change(SCRIPTS[script])
        (tmp_path / script).write_text(text if text.startswith("#!") else HEAD + text)
        slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}
        slurm |= {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        (tmp_path / "ready").unlink(missing_ok=True)
        process = subprocess.Popen(
            ["bash", script], cwd=tmp_path, env=os.environ | slurm | variables
        )
        try:
            if number is not None:
                while not (tmp_path / "ready").exists() and process.poll() is None:
                    time.sleep(0.01)
                process.send_signal(number)  # to the script only, as `--signal=B:` does
            status = process.wait(60)
        finally:
            process.kill()
        requeued = tmp_path / "requeued"
        return status, requeued.read_text() if requeued.exists() else ""

    return SimpleNamespace(run=run, stand_in=stand_in)


@pytest.mark.parametrize(
    ("number", "variables", "status", "requeued"),
    [
        (signal.SIGUSR1, {}, 138, "requeue 7\n"),
        (signal.SIGTERM, {}, 143, ""),
        (signal.SIGUSR1, {"STATUS": "1"}, 1, ""),  # saving failed
        (signal.SIGUSR1, {"STATUS": "0"}, 0, ""),  # finished in the meantime
        (None, {"STATUS": "3"}, 3, ""),
    ],
)
def test_a_job_is_queued_again_only_if_its_time_was_up(job, number, variables, status, requeued):
    if number is None:
        job.stand_in("d2-seesaw", "#!/bin/bash\nexit 3\n")
    assert job.run("train.sbatch", number, **variables) == (status, requeued)


def test_the_next_run_of_a_job_resumes(job, tmp_path):
    for _ in range(2):
        job.run("train.sbatch", signal.SIGUSR1)
    first, second = (tmp_path / "started").read_text().splitlines()
    assert first == second
    assert "train --resume --config-file lvis_v1_seesaw --num-gpus 8" in second
    assert "--num-machines 2 --machine-rank 1 --dist-url tcp://first:29500" in second


@pytest.mark.parametrize(
    ("number", "variables", "status", "requeued"),
    [
        (signal.SIGUSR1, {"TERMINATED": "1"}, 1, "requeue 7\n"),
        (signal.SIGTERM, {"TERMINATED": "1"}, 1, ""),
        (signal.SIGUSR1, {"STATUS": "0"}, 0, ""),
    ],
)
def test_torchrun_is_sent_sigterm_and_queued_again(job, number, variables, status, requeued):
    assert job.run("torchrun.sbatch", number, **variables) == (status, requeued)


@pytest.mark.slow
def test_a_real_training_in_a_job_saves_and_resumes(job, tmp_path):
    datasets = generate_small_data(tmp_path / "datasets")
    # It is ready when it has finished a step.
    job.stand_in(
        "d2-seesaw",
        f"""#!/bin/bash
cd {tmp_path}
steps() {{ cat output/lvis/metrics.json 2> /dev/null | wc -l; }}
before=$(steps)
(until [ "$(steps)" -gt "$before" ]; do sleep 0.1; done; touch ready) &
export PYTHONPATH={ROOT} DETECTRON2_DATASETS={datasets}
exec {sys.executable} -m d2_seesaw "$@" {" ".join(SMALL)} dataloader.train.num_workers=2
""",
    )

    def change(text):
        one = text.replace("--num-gpus 8", "--num-gpus 1").replace("lvis_v1_", "quickstart/")
        return one.replace('--num-machines "$SLURM_NNODES" --machine-rank "$SLURM_NODEID"', "")

    found, requeued = [], ""
    for _ in range(2):
        status, requeued = job.run("train.sbatch", signal.SIGUSR1, change)
        assert status == 138
        found.append((tmp_path / "output/lvis/last_checkpoint").read_text())
    assert requeued == "requeue 7\n" * 2
    assert found[1] > found[0]
