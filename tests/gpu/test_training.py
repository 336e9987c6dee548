"""Tests of batches that are copied ahead and of fused optimizers on the GPU."""

import copy

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.testing import assert_close

from d2_seesaw.data.prefetch import read_ahead
from d2_seesaw.engine import Trainer

pytestmark = pytest.mark.gpu

SIZE = (480, 640)


def samples(number: int) -> list[list[dict]]:
    """Draw batches of one image, all with other content."""
    return [
        [
            {
                "image": torch.randint(256, (3, *SIZE), dtype=torch.uint8),
                "sem_seg": torch.randint(9, SIZE),
                "instances": Instances(
                    SIZE,
                    gt_boxes=Boxes(torch.rand(5, 4)),
                    gt_classes=torch.randint(9, (5,)),
                    gt_masks=BitMasks(torch.rand(5, *SIZE) > 0.5),
                ),
            }
        ]
        for _ in range(number)
    ]


def sums(sample: dict) -> torch.Tensor:
    """Return the sum of each tensor of a sample."""
    objects = sample["instances"]
    tensors = [sample["image"], sample["sem_seg"], objects.gt_boxes.tensor]
    tensors += [objects.gt_classes, objects.gt_masks.tensor]
    return torch.stack([tensor.double().sum() for tensor in tensors])


def test_batches_that_are_copied_ahead_are_intact_while_the_device_is_busy(device):
    """The device reads each batch long after the host has dropped it and started other copies."""
    batches = samples(12)
    expected = torch.stack([sums(sample) for (sample,) in batches])
    busy = torch.rand(8192 if device.type == "cuda" else 32, 256, device=device)
    found = []
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")  # the host never waits
    try:
        for (sample,) in read_ahead(batches, device):
            assert sample["image"].device.type == device.type
            for _ in range(50):
                busy = (busy @ (busy.T @ busy)).clamp(0, 1)
            found.append(sums(sample) + 0 * busy[0, 0])
            del sample
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert_close(torch.stack(found).cpu(), expected)


class Net(nn.Module):
    """A small network, whose loss overflows in float16 for some batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, batch: list[dict]) -> dict:
        x = torch.stack([sample["x"] for sample in batch])
        return {"loss": (self.layers(x).float() - 1).square().mean() * batch[0]["factor"]}


@pytest.mark.parametrize("amp_dtype", [None, "float16"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_fused_optimizer_gives_the_weights_of_one_that_is_not(name, amp_dtype, device):
    """The oracle is torch's own optimizer on the same device, with steps that overflow."""
    factors = [1e9, 1.0, 1.0, 1e9, 1.0, 1.0] if amp_dtype else [1.0] * 6
    data = [[{"x": torch.randn(3, 12, 12).to(device), "factor": factor}] * 2 for factor in factors]
    model = Net().to(device)
    options = {"lr": 0.02, "weight_decay": 1e-2} | ({"momentum": 0.9} if name == "SGD" else {})
    weights = []
    for fused in (True, False):
        trained = copy.deepcopy(model)
        optimizer = getattr(torch.optim, name)(trained.parameters(), fused=fused, **options)
        trainer = Trainer(trained, data, optimizer, amp_dtype=amp_dtype, max_norm=1.0, seed=0)
        if amp_dtype:
            trainer.grad_scaler.load_state_dict(trainer.grad_scaler.state_dict() | {"scale": 8.0})
        trainer.train(0, 6)
        weights.append([parameter.detach() for parameter in trained.parameters()])
    before = [parameter.detach() for parameter in model.parameters()]
    assert all((a != b).any() for a, b in zip(weights[0], before, strict=True))
    # Convolutions in float16 may choose other algorithms, and AdamW divides by small gradients.
    assert_close(*weights, rtol=1e-2 if amp_dtype else 1e-4, atol=1e-3 if amp_dtype else 1e-5)
