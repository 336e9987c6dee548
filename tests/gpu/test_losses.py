"""Tests of losses on the GPU: values, gradients, counts and the number of synchronizations."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.losses import (
    InverseFrequencyLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
    SeesawLoss,
    progressive_constraint,
    seesaw_cross_entropy,
)
from d2_seesaw.losses._common import note_label_range
from tests.gpu.agreement import assert_agrees
from tests.losses.all_losses import ROI_LOSSES
from tests.losses.fused.test_seesaw import KERNEL_CASES
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.test_host_reads import HEADS

pytestmark = pytest.mark.gpu
every_loss = pytest.mark.parametrize("new_loss", ROI_LOSSES.values(), ids=ROI_LOSSES.keys())

ROIS, C = 96, 1203

DENSE_LOSSES: dict[str, Callable[[], nn.Module]] = {
    "seesaw": lambda: SeesawCrossEntropyLoss(19),
    "seesaw in pieces": lambda: SeesawCrossEntropyLoss(19, chunk_size=500),
    "seesaw at once": lambda: SeesawCrossEntropyLoss(19, chunk_size=None),
    "recall": lambda: RecallLoss(19),
    "recall in pieces": lambda: RecallLoss(19, chunk_size=500),
    "recall, running": lambda: RecallLoss(19, momentum=0.9),
    "recall, weighted": lambda: RecallLoss(19, reduction="weighted_mean"),
    "inverse frequency": lambda: InverseFrequencyLoss(19, power=0.5),
}


def sampled_rois(num_logits: int) -> tuple[Tensor, Tensor]:
    """Draw ``(R, L)`` logits and labels: a long tail, background, and ignored RoIs."""
    labels = (C * torch.rand(ROIS) ** 3).long()
    labels[::2] = C
    labels[::17] = -1
    return 3 * torch.randn(ROIS, num_logits), labels


class Scores(nn.Module):
    """Scores of a loss, as a module that moves to the device."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor) -> Tensor:
        return self.loss.scores(logits)


def pixels() -> tuple[Tensor, Tensor]:
    """Draw logits of two images and 19 classes, and labels with some ignored pixels."""
    labels = (19 * torch.rand(2, 24, 33) ** 3).long()
    labels[:, :2] = 255
    return 3 * torch.randn(2, 19, 24, 33), labels


def trained(loss: nn.Module, *batch: Tensor) -> nn.Module:
    """Train a loss for one step on the CPU, so that it has statistics."""
    loss(*batch)
    return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@every_loss
def test_losses_for_rois(new_loss, dtype, device):
    loss = new_loss(C)
    logits, labels = sampled_rois(loss.num_logits)
    trained(loss, logits, labels)
    # Arithmetic is float32 for all logits; the gradient is rounded to the dtype of the logits.
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-4)
    assert_agrees(loss, logits.to(dtype), labels, device=device, tolerance=tolerance)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_for_rois_are_the_same_under_autocast(new_loss, dtype, device):
    loss = new_loss(C)
    batch = sampled_rois(loss.num_logits)
    assert_agrees(trained(loss, *batch), *batch, device=device, autocast=dtype)


@every_loss
def test_scores(new_loss, device):
    loss = new_loss(C)
    assert_agrees(Scores(loss), sampled_rois(loss.num_logits)[0], device=device)


def test_counts_move_with_the_module_and_stay_exact(device):
    loss = SeesawLoss(C).to(device)
    loss.class_counts += 2**53  # float64 cannot count further
    logits, labels = (tensor.to(device) for tensor in sampled_rois(C + 2))
    loss(logits, labels)
    assert loss.class_counts.device.type == device.type
    added = loss.class_counts.cpu() - 2**53
    labels = labels.cpu()
    assert torch.equal(added, labels[labels >= 0].bincount(minlength=C + 1))


@pytest.mark.parametrize("labels", [[], [C, C, C], [-1, -1], [0]], ids=str)
def test_batches_with_missing_labels(labels, device):
    logits = torch.randn(len(labels), C + 2, device=device, requires_grad=True)
    losses = SeesawLoss(C).to(device)(logits, torch.tensor(labels, device=device).long())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert logits.grad.isfinite().all()


def test_a_wrong_label_raises_without_breaking_the_device(device):
    loss = SeesawLoss(4).to(device)
    with pytest.raises(ValueError, match=r"labels must be in \[-1, 4\].*got 7"):
        loss(torch.randn(2, 6, device=device), torch.tensor([0, 7], device=device))
    # After a failed assertion inside a kernel, this would fail as well.
    assert loss(torch.randn(2, 6, device=device), torch.tensor([0, 4], device=device))


def test_seesaw_cross_entropy_of_images(device):
    logits, labels = pixels()
    labels = labels.clamp(max=18)
    counts = torch.randint(0, 10**6, (19,))
    assert_agrees(seesaw_cross_entropy, logits, labels, counts, device=device)


@pytest.mark.parametrize("new_loss", DENSE_LOSSES.values(), ids=DENSE_LOSSES.keys())
def test_dense_losses(new_loss, device):
    batch = pixels()
    assert_agrees(trained(new_loss(), *batch), *batch, device=device)


def test_pixels_sampled_on_the_gpu_estimate_the_full_loss(device):
    logits, labels = (tensor.to(device) for tensor in pixels())
    loss = SeesawCrossEntropyLoss(19, sample_size=200).to(device).eval()
    everything = SeesawCrossEntropyLoss(19).to(device).eval()(logits, labels)
    estimate = torch.stack([loss(logits, labels) for _ in range(50)]).mean()
    # 10,000 pixels in all: the standard error is 1 % of the loss.
    assert_close(estimate, everything, rtol=0.1, atol=0)


def test_progressive_constraint(device):
    def constraint(achieved: Tensor, reference: Tensor) -> Tensor:
        return progressive_constraint(achieved, reference.detach()) + 0 * reference.sum()

    assert_agrees(constraint, torch.rand(40), torch.rand(40), device=device)


def test_counts_and_losses_in_a_process_group_of_the_gpu(device, tmp_path: Path):
    loss = SeesawLoss(C).to(device)
    batch = [tensor.to(device) for tensor in sampled_rois(C + 2)]
    alone = SeesawLoss(C).to(device)
    expected = alone(*batch)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert_close(loss(*batch), expected)
    finally:
        dist.destroy_process_group()
    assert torch.equal(loss.class_counts, alone.class_counts)


# --- synchronization ---


def synchronizations(step: Callable[[], object]) -> int:
    """Count how often ``step`` makes the host wait for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def waits_of(loss: Any, device: torch.device) -> tuple[int, int]:
    """Count the synchronizations of a forward and a backward pass."""
    loss = loss.to(device)
    classes = loss.num_classes
    logits = torch.randn(512, loss.num_logits, device=device, requires_grad=True)
    labels = torch.randint(-1, classes + 1, (512,), device=device)
    sum(loss(logits, labels).values()).backward()  # warm-up: one-time synchronizations happen here
    total: list[Tensor] = []
    forward = synchronizations(lambda: total.append(sum(loss(logits, labels).values())))
    return forward, synchronizations(lambda: total[0].backward())


@every_loss
def test_synchronizations_do_not_depend_on_the_number_of_classes(new_loss, device):
    if device.type != "cuda":
        pytest.skip("counts what CUDA reports")
    # Check the counter itself.
    assert synchronizations(lambda: torch.ones(1, device=device).item()) == 1
    few, many = waits_of(new_loss(10), device), waits_of(new_loss(C), device)
    assert few == many
    # Checking the labels and finding the foreground RoIs synchronize; the backward pass does not.
    forward, backward = many
    assert forward <= 2
    assert backward == 0


@every_loss
def test_no_synchronization_once_the_range_of_the_labels_is_known(new_loss, device):
    if device.type != "cuda":
        pytest.skip("counts what CUDA reports")
    loss = new_loss(C).to(device)
    logits = torch.randn(512, loss.num_logits, device=device, requires_grad=True)
    labels = torch.randint(-1, C + 1, (512,), device=device)
    sum(loss(logits, labels).values()).backward()  # warm-up
    note_label_range(labels, -1, C)  # as the box predictor does
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(loss(logits, labels).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("ours", "stock"), HEADS.values(), ids=HEADS.keys())
def test_roi_heads_synchronize_less_often_than_detectron2s(ours, stock, device):
    if device.type != "cuda":
        pytest.skip("counts what CUDA reports")
    waits = []
    for new_heads in (ours, stock):
        heads = new_heads().to(device)
        features, proposals, targets = parts.batch()
        features = {k: v.detach().to(device).requires_grad_() for k, v in features.items()}
        batch = features, [p.to(device) for p in proposals], [t.to(device) for t in targets]
        with EventStorage():
            parts.losses_of(heads, batch)  # warm-up
            waits.append(
                synchronizations(lambda h=heads, b=batch: sum(parts.losses_of(h, b).values()))
            )
    assert waits[0] < waits[1]


def test_the_kernel_of_seesaw_loss_meets_its_claims_on_the_gpu(device):
    pytest.importorskip("triton")
    if device.type != "cuda":
        pytest.skip("fused/test_seesaw.py runs it in Triton's interpreter")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(KERNEL_CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
