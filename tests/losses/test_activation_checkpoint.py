"""Losses inside of a checkpointed region count a batch once, and give the same gradients."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from d2_seesaw.losses import RecallLoss, SeesawCrossEntropyLoss, SeesawLoss

LOSSES = {
    "seesaw": (SeesawLoss(4), (6, 6)),
    "dense": (SeesawCrossEntropyLoss(4), (2, 4, 3, 3)),
    "recall": (RecallLoss(4), (2, 4, 3, 3)),
}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_inside_of_a_checkpointed_region_counts_a_batch_once(name, reentrant):
    loss, shape = LOSSES[name]
    plain, recomputed = copy.deepcopy(loss), copy.deepcopy(loss)
    for seed in range(3):
        torch.manual_seed(seed)
        logits = torch.randn(shape, requires_grad=True)
        again = logits.detach().clone().requires_grad_()
        labels = torch.randint(0, 4, (shape[0], *shape[2:]))

        def total(x, y, of):
            result = of(x * 2, y)
            return sum(result.values()) if isinstance(result, dict) else result

        total(logits, labels, plain).backward()
        checkpoint(total, again, labels, recomputed, use_reentrant=reentrant).backward()
        for key, value in plain.state_dict().items():
            assert torch.equal(value, recomputed.state_dict()[key])
        torch.testing.assert_close(again.grad, logits.grad)
