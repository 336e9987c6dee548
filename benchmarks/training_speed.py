"""Training speed and memory of Mask R-CNN R-50 on LVIS, against Detectron2's own.

    python benchmarks/training_speed.py --device cuda
    python benchmarks/training_speed.py --device cuda --images 4 --precisions float16
    python benchmarks/training_speed.py --small --rounds 40

Three candidates train on random images of 800 x 1067 with 12 objects each, and take turns:

- Detectron2: its Mask R-CNN with softmax, all classes and the trainer of Detectron2.
- Seesaw: configs/lvis_v1_seesaw.py as it is. It trains scale and shift of the batch norms, as mmdet
  does; with --config configs/lvis_v1_seesaw_detectron2.py it freezes them, as Detectron2 does.
- all options: the same with channels last, compiled backbone and box head, fused optimizer and
  batches that are copied to the GPU ahead.

Data loading is excluded, copying to the GPU is not. The network starts from random weights.
Proposals near the objects replace those of a trained RPN (fixed_proposals.py), so that the heads
get a realistic number of foreground RoIs. The peak of the memory of a candidate is that of two
steps right after it was built, without what the candidates before it hold. The loss is timed
separately, forward and backward, on its logits and labels of one step. float32 follows torch's
default: convolutions on a GPU use TF32.

With --small, the models of configs/quickstart/seesaw.py and of the configs on a pretrained
MobileNetV2 train on a CPU instead, on images of 144 x 192: as configured, and with Detectron2's
pooler and RPN head and the channels first in memory. Both get the same weights, images and random
numbers. Their RPN is trained and makes the proposals. Where losses are compared, proposals near the
objects replace them, because rounding errors change which ones are sampled.
"""

import argparse
import gc
import itertools
import math
import sys
import time
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.utils.events import EventStorage
from fixed_proposals import FixedProposals
from random_detectors import ROOT, Cycle, build, random_image, stock_mask_rcnn, tame
from timing import (
    Row,
    Step,
    Times,
    add_device_options,
    device_name,
    measure,
    quartiles,
    ratios,
    write_json,
)
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from d2_seesaw.data.prefetch import read_ahead
from d2_seesaw.engine import Trainer, load_config
from d2_seesaw.engine.trainer import compile_parts

STOCK, SEESAW, ALL = CANDIDATES = ("Detectron2", "Seesaw", "all options")
COMPILED = ("backbone", "roi_heads.box_head")
"""Parts whose shapes do not change from step to step; the number of masks does."""
TIME_LIMIT, MEMORY_LIMIT, SPEED_LIMIT = 1.02, 1.0, 1.3
SMALL = {
    "quickstart": "configs/quickstart/seesaw.py",
    "MobileNetV2": "benchmarks/evidence/configs/instances.py",
}
COMPARED_STEPS = 20
"""Number of first steps whose losses are compared."""
PRECISIONS = ("float32", "float16", "bfloat16")


class Training:
    """Training of a model, one step at a time.

    Args:
        name: one of ``CANDIDATES``.
        precision: one of ``PRECISIONS``.
        images: images of a step.
        options: command-line options.
        compiled: compile parts of the last candidate.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        images: int,
        options: argparse.Namespace,
        *,
        compiled: bool,
    ) -> None:
        torch.manual_seed(0)
        self.name = name
        self.amp_dtype = None if precision == "float32" else precision
        batches = Cycle([[random_image(options) for _ in range(images)] for _ in range(2)])
        cfg = load_config(str(ROOT / options.config))
        cfg.optimizer.lr = 1e-4  # low, because training starts from random weights
        self.model = stock_mask_rcnn() if name == STOCK else build(cfg.model)
        self.model.to(options.device).train()
        tame(self.model)
        self.model.roi_heads.batch_size_per_image = options.rois
        loader: Any = batches
        if name == ALL:
            self.model.to(memory_format=torch.channels_last)
            if compiled:
                compile_parts(self.model, COMPILED, backend=options.backend)
            cfg.optimizer.fused = True
            loader = read_ahead(batches, torch.device(options.device))
        self.model.proposal_generator = FixedProposals(
            self.model.proposal_generator, per_object=40, elsewhere=800
        )
        cfg.optimizer.params.model = self.model
        self.trainer = self._trainer(loader, build(cfg.optimizer))
        self.trainer.storage = self.storage = EventStorage()

    def _trainer(self, loader: Any, optimizer: torch.optim.Optimizer) -> SimpleTrainer:
        if self.name != STOCK:
            return Trainer(self.model, loader, optimizer, amp_dtype=self.amp_dtype, seed=0)
        if self.amp_dtype is None:
            return SimpleTrainer(self.model, loader, optimizer)
        scaler = torch.amp.GradScaler("cuda", enabled=self.amp_dtype == "float16")
        precision = getattr(torch, self.amp_dtype)
        return AMPTrainer(self.model, loader, optimizer, grad_scaler=scaler, precision=precision)

    def step(self) -> None:
        """Run one training step."""
        with self.storage:
            self.trainer.run_step()

    def loss_step(self) -> tuple[Step, Tensor]:
        """Return a forward and backward pass of the loss alone, and its labels."""
        loss = self.model.roi_heads.box_predictor.cls_loss
        given: list[tuple[Tensor, Tensor]] = []
        hook = loss.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
        self.step()
        hook.remove()
        logits, labels = given[0][0].detach(), given[0][1]

        def step() -> None:
            leaf = logits.requires_grad_()
            torch.stack(list(loss(leaf, labels).values())).sum().backward()
            leaf.grad = None

        return step, labels


class SmallTraining:
    """Training of a small model on a CPU, one step at a time.

    Attributes:
        losses: total loss of each step.
    """

    def __init__(
        self,
        path: str,
        options: argparse.Namespace,
        *,
        as_configured: bool,
        fixed_proposals: bool = False,
    ) -> None:
        torch.manual_seed(0)
        cfg = load_config(str(ROOT / path))
        cfg.optimizer.lr = 1e-4
        model = build(cfg.model).train()
        if as_configured and cfg.train.channels_last:
            model.to(memory_format=torch.channels_last)
        if not as_configured:
            for name in ("box_pooler", "mask_pooler"):
                setattr(model.roi_heads, name, ROIPooler(**_arguments(cfg.model.roi_heads[name])))
            head = StandardRPNHead(**_arguments(cfg.model.proposal_generator.head))
            head.load_state_dict(model.proposal_generator.rpn_head.state_dict())
            model.proposal_generator.rpn_head = head.train()
        cfg.optimizer.params.model = model
        if fixed_proposals:
            model.proposal_generator = FixedProposals(
                model.proposal_generator, per_object=8, elsewhere=100
            )
        torch.manual_seed(1)  # both draw the same images
        classes = cfg.model.roi_heads.num_classes
        batches = [[random_image(options, classes) for _ in range(8)] for _ in range(2)]
        self.trainer = Trainer(
            model, Cycle(batches), build(cfg.optimizer), seed=1, **cfg.train.clip_grad
        )
        self.trainer.iter = 0
        self.trainer.storage = self.storage = EventStorage()
        self.losses: list[float] = []

    def step(self) -> None:
        """Run one training step."""
        with self.storage:
            self.trainer.run_step()
        self.trainer.iter += 1
        latest = self.storage.latest()
        self.losses.append(latest["total_loss"][0])


def _arguments(part: Any) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "_target_"}


def losses_apart(path: str, options: argparse.Namespace) -> float:
    """Return the largest relative difference of the losses of both ways."""
    losses = []
    for as_configured in (True, False):
        training = SmallTraining(path, options, as_configured=as_configured, fixed_proposals=True)
        for _ in range(COMPARED_STEPS):
            training.step()
        losses.append(training.losses)
    return max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))


def small_rows(name: str, options: argparse.Namespace) -> list[Row]:
    """Time a small model as configured and as it was, and compare the losses."""
    now, before = (SmallTraining(SMALL[name], options, as_configured=how) for how in (True, False))
    steps: dict[str, Step] = {"now": now.step, "before": before.step}
    times = measure(steps, options.rounds, "cpu", budget=0.0)
    rows: list[Row] = [
        {"case": name, "what": what, "unit": "ms", **quartiles(times[what])} for what in steps
    ]
    ratio = quartiles(ratios(times, "now", "before"))
    rows.append({"case": name, "what": "now / before", "unit": "ratio", **ratio})
    for row in rows:
        print(
            f"{row['case']:11} {row['what']:12} {row['median']:8.3f} {row['unit']:5} "
            f"({row['low']:.3f} to {row['high']:.3f})",
            flush=True,
        )
    apart = losses_apart(SMALL[name], options)
    rows[-1]["losses apart"] = apart
    print(f"{name:11} losses of {COMPARED_STEPS} steps differ by {apart:.1e} at most", flush=True)
    return rows


def started(
    name: str, precision: str, images: int, options: argparse.Namespace
) -> tuple[Training, float | None, str]:
    """Build a candidate and run its first steps.

    Returns:
        The candidate; the peak of its memory on a GPU in MB, without that of the candidates built
        before; and why its parts are not compiled, or an empty text.
    """
    note = ""
    before = allocated(options.device)
    try:
        training = Training(name, precision, images, options, compiled=options.compile)
        training.step()
    except TorchDynamoException as error:  # such as a missing compiler
        note = f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        training = Training(name, precision, images, options, compiled=False)
        training.step()
    if before is None:
        return training, None, note
    training.step()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        training.step()
    return training, (torch.cuda.max_memory_allocated() - before) / 1e6, note


def allocated(device: str) -> int | None:
    """Return the bytes of live tensors on a GPU; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def rows_of(precision: str, images: int, options: argparse.Namespace) -> list[Row]:
    """Measure all candidates with one precision and batch size."""
    case = f"{precision} x {images}"
    trainings: dict[str, Training] = {}
    rows: dict[str, Row] = {}
    for name in options.candidates:
        trainings[name], peak, note = started(name, precision, images, options)
        rows[name] = {"case": case, "what": name, "unit": "ms", "peak memory MB": peak}
        rows[name] |= {"note": note} if note else {}
    steps: dict[str, Step] = {name: training.step for name, training in trainings.items()}
    times = measure(steps, options.rounds, options.device, budget=0.0, warm_up=0)
    for name, row in rows.items():
        row |= quartiles(times[name])
        row["images per second"] = 1e3 * images / row["median"]
    if SEESAW in trainings:
        loss, labels = trainings[SEESAW].loss_step()
        spent = measure({SEESAW: loss}, options.rounds, options.device)[SEESAW]
        rows[SEESAW] |= {
            "loss ms": quartiles(spent)["median"],
            "share of the loss": quartiles(spent)["median"] / rows[SEESAW]["median"],
            "RoIs": len(labels),
            "foreground RoIs": int((labels < 1203).sum()),
        }
    return [*rows.values(), *comparisons(case, times, rows)]


def comparisons(case: str, times: Times, rows: dict[str, Row]) -> list[Row]:
    """Return the ratios with their limits, as far as their candidates were measured."""
    found: list[Row] = []
    if SEESAW in rows and STOCK in rows:
        of_time = quartiles(ratios(times, SEESAW, STOCK))
        found.append(
            {"case": case, "what": f"{SEESAW} / {STOCK}, time", "unit": "ratio", **of_time}
            | {"limit": f"<= {TIME_LIMIT}"}
        )
        ours, stock = (rows[name]["peak memory MB"] for name in (SEESAW, STOCK))
        if stock is not None:
            found.append(
                {"case": case, "what": f"{SEESAW} / {STOCK}, peak memory", "unit": "ratio"}
                | {"median": ours / stock, "limit": f"<= {MEMORY_LIMIT}"}
            )
    if ALL in rows and STOCK in rows:
        of_images = quartiles(ratios(times, STOCK, ALL))
        found.append(
            {"case": case, "what": f"{ALL} / {STOCK}, images/s", "unit": "ratio", **of_images}
            | {"limit": f">= {SPEED_LIMIT}"}
        )
    return found


def report(rows: list[Row]) -> None:
    """Print one line per candidate and ratio."""
    for row in rows:
        if row["unit"] == "not run":
            print(f"{row['case']:13} not run: {row['what']}", flush=True)
            continue
        text = f"{row['case']:13} {row['what']:36} {row['median']:8.3f} {row['unit']:5}"
        if "low" in row:
            text += f" ({row['low']:.3f} to {row['high']:.3f})"
        if "limit" in row:
            text += f", limit {row['limit']}"
        if "images per second" in row:
            text += f", {row['images per second']:.1f} images/s"
        if row.get("peak memory MB") is not None:
            text += f", peak {row['peak memory MB']:.0f} MB"
        if "share of the loss" in row:
            text += (
                f", loss {row['loss ms']:.2f} ms = {100 * row['share of the loss']:.1f} %, "
                f"{row['foreground RoIs']} of {row['RoIs']} RoIs foreground"
            )
        print(text + (f", {row['note']}" if "note" in row else ""), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, nargs="+", default=[8, 2, 4, 16], help="per step, in this order")
    add("--size", type=int, nargs=2, default=(800, 1067))
    add("--objects", type=int, default=12, help="per image")
    add("--rois", type=int, default=512, help="sampled per image")
    add("--rounds", type=int, default=7, help="at least 2")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["bfloat16", "float32"])
    add("--candidates", nargs="+", choices=CANDIDATES, default=CANDIDATES)
    add("--config", default="configs/lvis_v1_seesaw.py", help="of the Seesaw candidates")
    add("--no-compile", dest="compile", action="store_false", help="compile nothing")
    add("--backend", default="inductor", help="of torch.compile")
    add("--seconds", type=float, default=math.inf, help="begin no other case after this time")
    add("--small", action="store_true", help="small models on a CPU")
    add("--rehearse", action="store_true", help="one small image in float32")
    add_device_options(parser)
    return parser.parse_args()


def main() -> None:
    """Measure each batch size in each precision."""
    options = parse_arguments()
    if options.rehearse:
        options.images, options.size, options.rounds, options.rois = [1], (128, 160), 2, 16
        options.precisions, options.backend = ["float32"], "eager"
    if options.device == "cpu" and options.precisions != ["float32"] and not options.small:
        sys.exit("training_speed: on a CPU only --precisions float32, as Detectron2's AMPTrainer")
    print(f"torch {torch.__version__}, {device_name(options.device)}, {options.rounds} rounds")
    rows: list[Row] = []
    if options.small:
        torch.set_num_threads(1)
        sys.path.insert(0, str(ROOT / "benchmarks/evidence"))  # modules that the configs import
        options.size, options.objects = (144, 192), 6
        for name in SMALL:
            rows += small_rows(name, options)
            write_json(options.json, "training_speed", "cpu", rows)
        return
    start = time.monotonic()
    for images, precision in itertools.product(options.images, options.precisions):
        if time.monotonic() - start < options.seconds:
            case_rows = rows_of(precision, images, options)
        else:
            case = f"{precision} x {images}"
            case_rows = [{"case": case, "what": "no time was left", "unit": "not run"}]
        report(case_rows)
        rows += case_rows
        write_json(options.json, "training_speed", options.device, rows)
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
