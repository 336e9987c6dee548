"""Training and evaluation for gpu_check.py: the quickstart's model on a few generated images.

    python benchmarks/gpu_training.py train --precision float16 --json float16.json
    python benchmarks/gpu_training.py evaluate --checkpoint model.pth --json evaluation.json

The data are generated once, in the folder quickstart of $DETECTRON2_DATASETS.

The class counts of the three precisions are comparable because the sampled RoIs do not depend on
the precision. Images, their order and the initial weights follow from the seed; sampling RoIs
consumes the same random numbers; and proposals are drawn near the ground truth instead of being
predicted (fixed_proposals.py). Everything else, including the RPN, is trained as usual. The counts
of the loss are compared with a recount of the labels that it received.
"""

import argparse
import hashlib
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.env import seed_all_rng
from fixed_proposals import FixedProposals
from torch import Tensor, nn

from d2_seesaw.data import datasets_root
from d2_seesaw.engine import Trainer, load_config
from d2_seesaw.evaluation import drop_absent
from d2_seesaw.inference import with_roi_masks
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import LongTailProfile

CONFIG = Path(__file__).resolve().parents[1] / "configs/quickstart/seesaw.py"
TASKS = ("bbox", "segm")
PRECISIONS = ("float32", "float16", "bfloat16")
WARM_UP = 5
"""Number of untimed warm-up steps."""
LEARNS_IN = 20
"""Number of steps after which the loss must have decreased by 10 %."""
AP_TOLERANCE = 0.5
"""Tolerance in points of AP between device and CPU: close scores may change their order."""

build: Any = instantiate


class Record(HookBase):
    """Hook that records times, losses and the labels passed to the classification loss."""

    def __init__(self, cls_loss: nn.Module, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.losses: dict[str, list[float]] = defaultdict(list)
        self.labels: list[Tensor] = []
        cls_loss.register_forward_pre_hook(lambda _, inputs: self.labels.append(inputs[1].cpu()))

    def before_step(self) -> None:
        """Start the clock."""
        synchronize(self.device)
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stop the clock and record the step."""
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self._start)
        for name, (value, _) in self.trainer.storage.latest().items():
            if "loss" in name:
                self.losses[name].append(value)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def generate_data() -> None:
    """Generate the data, unless they exist."""
    tail = LongTailProfile(rare=4, common=7, frequent=9, head_share=0.45, full_scale_images=1000)
    spec = LongTailSpec(num_train_images=160, num_val_images=32, min_val_images=2, profile=tail)
    generate_longtail_dataset(datasets_root() / "quickstart", spec)


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train, check the counts and save the model; return the measurements."""
    device = torch.device(options.device)
    steps = [f"train.max_iter={options.steps}", "lr_multiplier.warmup_iters=5"]
    cfg = load_config(str(CONFIG), steps)
    seed_all_rng(cfg.train.seed)
    loader = build(cfg.dataloader.train)
    model = build(cfg.model).to(device)
    model.proposal_generator = FixedProposals(model.proposal_generator)
    cfg.optimizer.params.model = model
    trainer = Trainer(
        model,
        loader,
        build(cfg.optimizer),
        amp_dtype=None if options.precision == "float32" else options.precision,
        **cfg.train.clip_grad,
    )
    cls_loss = model.roi_heads.box_predictor.cls_loss
    record = Record(cls_loss, device)
    trainer.register_hooks([hooks.LRScheduler(scheduler=build(cfg.lr_multiplier)), record])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer.train(0, options.steps)
    if options.checkpoint:
        model.proposal_generator = model.proposal_generator.rpn
        torch.save(model.state_dict(), options.checkpoint)
    return measured(record, cls_loss.class_counts.tolist(), device) | {
        "precision": options.precision,
        "loss_scale": trainer.grad_scaler.get_scale() if trainer.grad_scaler.is_enabled() else None,
    }


def measured(record: Record, class_counts: list[int], device: torch.device) -> dict[str, Any]:
    """Summarize a training run.

    Raises:
        RuntimeError: the counts differ from the labels, or the loss did not decrease.
    """
    labels = torch.cat(record.labels)
    recount = labels[labels >= 0].bincount(minlength=len(class_counts)).tolist()
    if recount != class_counts:
        raise RuntimeError(f"the loss counted {class_counts}, its labels are {recount}")
    first = {name: statistics.mean(values[:5]) for name, values in record.losses.items()}
    last = {name: statistics.mean(values[-5:]) for name, values in record.losses.items()}
    steps = len(record.seconds)
    if steps >= LEARNS_IN and not last["total_loss"] < 0.9 * first["total_loss"]:
        raise RuntimeError(f"the loss did not fall: {first} at the beginning, {last} at the end")
    is_cuda = device.type == "cuda"
    return {
        "steps": steps,
        "class_counts": class_counts,
        "sampled_rois": sum(class_counts),
        "foreground_rois": sum(class_counts[:-1]),
        # Equal counts alone would not show that the labels came in the same order.
        "labels_sha256": hashlib.sha256(labels.numpy().tobytes()).hexdigest(),
        "loss_of_first_step": record.losses["total_loss"][0],
        "mean_of_first_5_steps": first,
        "mean_of_last_5_steps": last,
        "seconds_per_step": statistics.median(record.seconds[WARM_UP:] or record.seconds),
        "peak_memory_MB": torch.cuda.max_memory_allocated(device) / 1e6 if is_cuda else None,
    }


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a trained model on the device and on the CPU.

    Raises:
        RuntimeError: AP differs by more than the tolerance.
    """
    on_device = evaluate_on(torch.device(options.device), options)
    on_cpu = evaluate_on(torch.device("cpu"), options)
    differences = {task: abs(on_device[task]["AP"] - on_cpu[task]["AP"]) for task in TASKS}
    result = {
        "device": on_device,
        "cpu": on_cpu,
        "difference_of_AP": differences,
        "tolerance": AP_TOLERANCE,
    }
    if max(differences.values()) > AP_TOLERANCE:
        raise RuntimeError(f"AP differs from that on the CPU: {json.dumps(result)}")
    return result


def evaluate_on(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Return metrics by task, and the seconds of inference and scoring."""
    cfg = load_config(str(CONFIG))
    cfg.dataloader.evaluator.output_dir = None
    model = build(cfg.model).to(device).eval()
    model.load_state_dict(torch.load(options.checkpoint, map_location=device, weights_only=True))
    loader, evaluator = build(cfg.dataloader.test), build(cfg.dataloader.evaluator)
    start = time.perf_counter()
    results = drop_absent(inference_on_dataset(with_roi_masks(model), loader, evaluator))
    return {**results, "seconds": time.perf_counter() - start, "images": len(loader)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["train", "evaluate"])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--checkpoint", type=Path, help="written by train, read by evaluate")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Train or evaluate, and write the result."""
    options = parse_arguments()
    generate_data()
    # Compare in full float32: TF32 would differ from the CPU by 1e-3.
    torch.backends.cudnn.allow_tf32 = False
    result = train(options) if options.what == "train" else evaluate(options)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
