"""Training speed of Mask R-CNN R-50 on LVIS, and the share of its classification loss.

    python benchmarks/training_speed.py --device cuda
    python benchmarks/training_speed.py --small --rounds 40
    python benchmarks/training_speed.py --device cuda --images 4 --precisions float16

The models of configs/lvis_v1_seesaw.py and of its softmax counterpart train on random images of
800 x 1067, 8 per step, with 12 objects each, in each precision; they take turns. Data loading is
excluded. The network starts from random weights. Proposals near the objects replace those of a
trained RPN (fixed_proposals.py), so that the heads get a realistic number of foreground RoIs.

With --small, the models of configs/quickstart/seesaw.py and of the configs on a pretrained
MobileNetV2 train on a CPU instead, on images of 144 x 192: as configured, and with Detectron2's
pooler and RPN head and the channels first in memory. Both get the same weights, images and random
numbers. Their RPN is trained and makes the proposals. Where losses are compared, proposals near the
objects replace them, because rounding errors change which ones are sampled.

The loss is timed separately, forward and backward, on its logits and labels of the last step.
float32 follows torch's default: convolutions on a GPU use TF32.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from fixed_proposals import FixedProposals
from timing import (
    Row,
    Step,
    add_device_options,
    device_name,
    measure,
    quartiles,
    ratios,
    write_json,
)
from torch import Tensor, nn

from d2_seesaw.engine import Trainer, load_config

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("Seesaw", "softmax")
SMALL = {
    "quickstart": "configs/quickstart/seesaw.py",
    "MobileNetV2": "benchmarks/evidence/configs/instances.py",
}
COMPARED_STEPS = 20
"""Number of first steps whose losses are compared."""
PRECISIONS = ("float32", "float16", "bfloat16")

build: Any = instantiate


def random_image(options: argparse.Namespace, num_classes: int = 1203) -> dict[str, Any]:
    """Draw a noise image with octagons as objects, in the format of a dataset mapper."""
    height, width = options.size
    corners = torch.rand(options.objects, 2) * torch.tensor([width * 0.7, height * 0.7])
    extents = 16 + torch.rand(options.objects, 2) * torch.tensor([width, height]) * 0.25
    angles = torch.arange(8) * math.pi / 4
    octagon = 0.5 + 0.5 * torch.stack([angles.cos(), angles.sin()], dim=1)
    polygons: list[list[Tensor | np.ndarray]] = [
        [(corner + extent * octagon).flatten().double().numpy()]
        for corner, extent in zip(corners, extents, strict=True)
    ]
    objects = Instances(
        (height, width),
        gt_boxes=Boxes(torch.cat([corners, corners + extents], dim=1)),
        gt_classes=(num_classes * torch.rand(options.objects) ** 3).long(),
        gt_masks=PolygonMasks(polygons),
    )
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": objects}


class Training:
    """Training of a model, one step at a time.

    Attributes:
        given: logits and labels of the last call to the classification loss.
    """

    def __init__(self, name: str, precision: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        cfg = load_config(str(ROOT / "configs/lvis_v1_seesaw.py"))
        if name == "softmax":
            part = LazyConfig.load(str(ROOT / "configs/common/heads/classification.py"), "softmax")
            cfg.model.roi_heads.box_predictor.update(part)
        model = build(cfg.model).to(options.device)
        tame(model)
        model.proposal_generator = FixedProposals(
            model.proposal_generator, per_object=40, elsewhere=800
        )
        self.cls_loss = model.roi_heads.box_predictor.cls_loss
        self.cls_loss.register_forward_pre_hook(self._keep)
        self.given: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        self.amp_dtype = None if precision == "float32" else precision
        cfg.optimizer.params.model = model
        cfg.optimizer.lr = 1e-4  # low, because training starts from random weights
        batch = [random_image(options) for _ in range(options.images)]
        self.trainer: SimpleTrainer = Trainer(
            model, Cycle([batch]), build(cfg.optimizer), amp_dtype=self.amp_dtype
        )
        self.storage = EventStorage()
        self.trainer.storage = self.storage

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        logits, labels = inputs
        self.given = logits.detach(), labels.detach()

    def step(self) -> None:
        """Run one training step."""
        with self.storage:
            self.trainer.run_step()

    def loss_step(self) -> Step:
        """Return a forward and backward pass of the loss alone."""
        logits, labels = self.given

        def step() -> None:
            leaf = logits.requires_grad_()
            torch.stack(list(self.cls_loss(leaf, labels).values())).sum().backward()
            leaf.grad = None

        return step


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


class Cycle:
    """Loader that repeats batches endlessly."""

    def __init__(self, batches: list[list[dict[str, Any]]]) -> None:
        self.batches = batches

    def __iter__(self):
        while True:
            yield from self.batches


@torch.no_grad()
def tame(model: GeneralizedRCNN) -> None:
    """Rescale random weights to keep activations near one: frozen norms do not normalize them."""
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("conv3.norm.weight"):
            buffer.fill_(0.2)


def rows_of(precision: str, options: argparse.Namespace) -> list[Row]:
    """Time both models in one precision."""
    is_cuda = options.device == "cuda"
    trainings = {name: Training(name, precision, options) for name in MODELS}
    steps: dict[str, Step] = {name: training.step for name, training in trainings.items()}
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    times = measure(steps, options.rounds, options.device, budget=0.0)
    rows: list[Row] = []
    for name, training in trainings.items():
        step = quartiles(times[name])
        loss_times = measure({name: training.loss_step()}, options.rounds, options.device)[name]
        loss = quartiles(loss_times)
        labels = training.given[1]
        rows.append(
            {
                "case": precision,
                "what": name,
                "unit": "ms",
                **step,
                "images per second": 1e3 * options.images / step["median"],
                "loss ms": loss["median"],
                "share of the loss": loss["median"] / step["median"],
                "RoIs": len(labels),
                "foreground RoIs": int((labels < training.cls_loss.num_classes).sum()),
            }
        )
    ratio = quartiles(ratios(times, "Seesaw", "softmax"))
    rows.append({"case": precision, "what": "Seesaw / softmax", "unit": "ratio", **ratio})
    if is_cuda:  # of both models together; only one runs at a time
        rows[-1]["peak memory MB of both"] = torch.cuda.max_memory_allocated() / 1e6
    return rows


def report(rows: list[Row]) -> None:
    """Print one line per model and the ratio."""
    for row in rows:
        text = f"{row['case']:9} {row['what']:17} {row['median']:8.2f} {row['unit']:5}"
        if row["unit"] == "ms":
            text += (
                f"  {row['images per second']:6.1f} images/s, loss {row['loss ms']:.2f} ms, "
                f"{100 * row['share of the loss']:.1f} % of the step, "
                f"{row['foreground RoIs']} of {row['RoIs']} RoIs foreground"
            )
        print(text, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8, help="per step")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1067))
    parser.add_argument("--objects", type=int, default=12, help="per image")
    parser.add_argument("--rounds", type=int, default=20, help="at least 2")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--small", action="store_true", help="small models on a CPU")
    parser.add_argument("--rehearse", action="store_true", help="one small image in float32")
    add_device_options(parser)
    return parser.parse_args()


def main() -> None:
    """Measure each precision in turn."""
    options = parse_arguments()
    if options.rehearse:
        options.images, options.size, options.rounds = 1, (128, 160), 2
        options.precisions = ["float32"]
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
    for precision in options.precisions:
        precision_rows = rows_of(precision, options)
        report(precision_rows)
        rows += precision_rows
        write_json(options.json, "training_speed", options.device, rows)
        if options.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
