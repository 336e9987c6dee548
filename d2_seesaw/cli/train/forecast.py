"""Forecast of a training from what a dry run has measured: time, memory and disk."""

from dataclasses import dataclass, field

_UNITS = ("B", "kB", "MB", "GB", "TB")
NEARLY_ALL = 0.9
"""Share of the free memory or disk above which a forecast warns."""


@dataclass(frozen=True)
class Plan:
    """Lengths of the training.

    Attributes:
        steps: steps of the training.
        eval_period: steps between evaluations; 0 evaluates only at the end.
        period: steps between periodic checkpoints.
        max_to_keep: periodic checkpoints that are kept; None keeps all.
        keeps_best: whether ``model_best.pth`` is kept as well.
        ranks: number of processes.
        test_images: images of the test data, over all ranks.
    """

    steps: int
    eval_period: int
    period: int
    max_to_keep: int | None
    keeps_best: bool
    ranks: int
    test_images: int

    @property
    def evaluations(self) -> int:
        """Number of evaluations, the one at the end included."""
        return (self.steps - 1) // self.eval_period + 1 if self.eval_period else 1

    @property
    def periodic(self) -> int:
        """Number of checkpoints that are saved before the end: periodically, and to evaluate."""
        due = set(range(self.period, self.steps + 1, self.period))
        if self.eval_period:
            due |= set(range(self.eval_period, self.steps, self.eval_period))
        return len(due)

    @property
    def saved(self) -> int:
        """Number of checkpoints that are written, if each evaluation is the best so far."""
        return self.periodic + 1 + self.keeps_best * self.evaluations

    @property
    def kept(self) -> int:
        """Number of checkpoints on the disk at the end."""
        periodic = (
            self.periodic if self.max_to_keep is None else min(self.max_to_keep, self.periodic)
        )
        return periodic + 1 + self.keeps_best


@dataclass
class Measured:
    """What a dry run has measured, on the main process. Times are in seconds, sizes in bytes.

    Attributes:
        start: age of the process when data, model and weights are loaded.
        steps: times of the steps on batches of the training data, without the first ones.
        loading: time to load one batch in one process, shared by the loading processes; 0 if there
            are none, as the step then includes it.
        image: mean time for a test image of this rank.
        scoring: time of an evaluation beside the images: the start of its processes, and scoring.
        save: time to write a checkpoint.
        checkpoint: size of a checkpoint.
        average: size of the file of the averaged weights.
        memory: peak memory of a process, resident or on the GPU.
        workers: memory of all loading processes of a rank beside what they share; 0 on a GPU.
        memory_free: memory that all ranks of this machine, or this GPU's process, can use; 0 if
            unknown.
        disk_free: free space of the output folder's file system; 0 if unknown.
    """

    start: float = 0.0
    steps: list[float] = field(default_factory=list)
    loading: float = 0.0
    image: float = 0.0
    scoring: float = 0.0
    save: float = 0.0
    checkpoint: int = 0
    average: int = 0
    memory: int = 0
    workers: int = 0
    memory_free: int = 0
    disk_free: int = 0

    @property
    def step(self) -> float:
        """Mean time of a step, at least the time in which its images can be loaded."""
        return max(sum(self.steps) / len(self.steps), self.loading)


@dataclass(frozen=True)
class Forecast:
    """Forecast of a training.

    Args:
        plan: lengths of the training.
        measured: measurements of the dry run.
        on_gpu: whether ``measured.memory`` is that of a GPU, which the ranks do not share.
    """

    plan: Plan
    measured: Measured
    on_gpu: bool = False

    @property
    def training(self) -> float:
        """Seconds of all steps."""
        return self.plan.steps * self.measured.step

    @property
    def evaluation(self) -> float:
        """Seconds of one evaluation."""
        images = -(-self.plan.test_images // self.plan.ranks)
        return images * self.measured.image + self.measured.scoring

    @property
    def evaluations(self) -> float:
        """Seconds of all evaluations."""
        return self.plan.evaluations * self.evaluation

    @property
    def saving(self) -> float:
        """Seconds to write all checkpoints."""
        return self.plan.saved * self.measured.save

    @property
    def total(self) -> float:
        """Seconds from the start of the command to its end."""
        return self.measured.start + self.training + self.evaluations + self.saving

    @property
    def disk(self) -> int:
        """Bytes of the checkpoints, one more while a new one is written."""
        return (self.plan.kept + 1) * self.measured.checkpoint + self.measured.average

    @property
    def memory(self) -> int:
        """Bytes of memory, of the GPU or of all processes of this machine."""
        own = self.measured.memory + self.measured.workers
        return own if self.on_gpu else own * self.plan.ranks

    def warnings(self) -> list[str]:
        """Return what does not fit, or hardly."""
        found = []
        kind = "GPU memory" if self.on_gpu else "memory"
        for name, needed, free in (
            (kind, self.memory, self.measured.memory_free),
            ("disk space", self.disk, self.measured.disk_free),
        ):
            if free and needed > NEARLY_ALL * free:
                found.append(f"{name}: {size(needed)} needed, {size(free)} free")
        if self.measured.loading > 1.1 * sum(self.measured.steps) / len(self.measured.steps):
            found.append(
                f"loading a batch takes {duration(self.measured.loading)}, longer than a step: "
                "raise dataloader.train.num_workers if there are free cores"
            )
        return found

    def lines(self) -> list[str]:
        """Return the forecast as lines of text."""
        plan, measured = self.plan, self.measured
        low, high = min(measured.steps), max(measured.steps)
        each = f"{plan.steps} steps of {measured.step:.3g} s ({low:.3g} to {high:.3g} s measured)"
        evaluations = (
            f"{plan.evaluations} of {plan.test_images} images, {duration(self.evaluation)} each"
        )
        files = f"{plan.saved} written in {measured.save:.2g} s each"
        disk = f"{plan.kept} checkpoints of {size(measured.checkpoint)} kept, one more in writing"
        memory = f"peak of the {'GPU' if self.on_gpu else 'process'}"
        if measured.workers:
            memory += f" {size(measured.memory)}, loading processes {size(measured.workers)}"
        if plan.ranks > 1 and not self.on_gpu:
            memory += f", {plan.ranks} ranks"
        rows = [
            ("start", duration(measured.start), "data, model and weights"),
            ("training", duration(self.training), each),
            ("evaluation", duration(self.evaluations), evaluations),
            ("checkpoints", duration(self.saving), files),
            ("total time", duration(self.total), ""),
            ("memory", size(self.memory), f"{memory}; {_free(measured.memory_free)}"),
            ("disk", size(self.disk), f"{disk}; {_free(measured.disk_free)}"),
        ]
        return [f"  {name:<12}{value:>12}  {detail}".rstrip() for name, value, detail in rows]


def _free(number: int) -> str:
    return f"{size(number)} free" if number else "free space unknown"


def duration(seconds: float) -> str:
    """Return a time as text with its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2f} s"
    minutes = round(seconds / 60)
    if seconds < 3600 and minutes < 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} days {minutes // 60 % 24} h"


def size(number: float) -> str:
    """Return a number of bytes as text, in powers of 1000."""
    for unit in _UNITS[:-1]:
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} {_UNITS[-1]}"
