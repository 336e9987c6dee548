"""Tests of batch norm on two ranks against ``nn.BatchNorm2d`` on both batches in one process."""

from functools import cache

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import ShapeSpec
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import SyncBatchNorm2d, mask_predictor, sync_batch_norm
from d2_seesaw.modeling.roi_heads import MaskHeadWithPredictor
from tests.modeling.roi_heads import parts
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.dist

C = 6
# Shapes (N, H, W) of the batches of the two ranks.
STEPS = {
    "unequal numbers": ((3, 5, 4), (5, 5, 4)),
    "none on rank 1": ((4, 5, 4), (0, 5, 4)),
    "unequal sizes": ((2, 3, 4), (2, 7, 5)),
    "one value each": ((1, 1, 1), (1, 1, 1)),
}
every_step = pytest.mark.parametrize("step", STEPS)


def batch(step, rank):
    """Return input and output gradient; the mean is large compared to the standard deviation."""
    generator = torch.Generator().manual_seed(list(STEPS).index(step) * 2 + rank)
    count, height, width = STEPS[step][rank]
    x, grad = torch.randn(2, count, C, height, width, generator=generator, dtype=torch.float64)
    return 3 * x + 100, grad


def new(norm):
    norm = norm(C)
    for index, parameter in enumerate(norm.parameters()):
        nn.init.uniform_(parameter, 0.5, 1.5, torch.Generator().manual_seed(index))
    return norm


def one_step(norm, x, grad):
    """Run a training step; return outputs, gradients and buffers by name."""
    x = x.requires_grad_()
    norm.zero_grad()
    output = norm(x)
    output.backward(grad.to(output.dtype))
    return {
        "output": output.detach(),
        "input grad": x.grad,
        "weight grad": norm.weight.grad,
        "bias grad": norm.bias.grad,
        **{name: buffer.clone() for name, buffer in norm.named_buffers()},
    }


def steps_on_this_rank():
    rank = dist.get_rank()
    results = {step: one_step(new(SyncBatchNorm2d).double(), *batch(step, rank)) for step in STEPS}
    x, grad = batch("unequal numbers", rank)
    results["bfloat16"] = one_step(new(SyncBatchNorm2d), x.bfloat16(), grad)
    results["float16"] = one_step(new(SyncBatchNorm2d), x.half(), grad)
    with torch.autocast("cpu", torch.bfloat16):
        results["autocast"] = one_step(new(SyncBatchNorm2d), x.bfloat16(), grad)
    results["evaluated"] = {"output": new(SyncBatchNorm2d).double().eval()(x).detach()}
    empty = new(SyncBatchNorm2d)
    results["nothing"] = one_step(empty, torch.zeros(0, C, 5, 4), torch.zeros(0, C, 5, 4))
    results["precise"] = precise(new(SyncBatchNorm2d).double(), x)
    results["kept types"] = saved_dtypes(x)
    results["mask head"] = step_of_a_mask_head(rank)
    return results


def precise(norm, x):
    """Return the statistics of one batch, computed as in Detectron2's ``PreciseBN`` hook."""
    update_bn_stats(norm, [x.detach(), x.detach()], num_iters=2, progress=None)
    return dict(norm.named_buffers())


def saved_dtypes(x):
    """Return the dtypes of the feature maps saved for the backward pass of a bfloat16 input."""
    kept = []

    def note(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        new(SyncBatchNorm2d)(x.detach().bfloat16().requires_grad_())
    return [tensor.dtype for tensor in kept if tensor.dim() == 4]


def step_of_a_mask_head(rank):
    """Return summed gradients and the statistics: rank 0 has three positives, rank 1 has none."""
    torch.manual_seed(0)
    head = MaskHeadWithPredictor(
        ShapeSpec(channels=8, width=14, height=14),
        predictor=mask_predictor(std=0.5),
        num_classes=parts.C,
        conv_dims=[8, 6],
        conv_norm=sync_batch_norm(),
    )
    x = torch.randn(3, 8, 14, 14)
    (image,) = parts.positives([2, 0, 1])
    with EventStorage(0):
        head(x[:0] if rank else x, [image[:0] if rank else image])["loss_mask"].backward()
    gradients = [parameter.grad for parameter in head.parameters()]
    if rank is not None:
        for gradient in gradients:
            dist.all_reduce(gradient)
    return gradients, dict(head.named_buffers())


@cache
def on_two_ranks():
    return run_on_ranks(steps_on_this_rank, world_size=2)


def in_one_process(step, dtype=torch.float64, norm=nn.BatchNorm2d):
    """Run ``nn.BatchNorm2d`` on the pixels of both ranks, arranged as one row."""
    rows = [
        torch.cat([t.movedim(1, 0).flatten(1) for t in tensors], 1)[None, :, None]
        for tensors in zip(batch(step, 0), batch(step, 1), strict=True)
    ]
    return one_step(new(norm).to(dtype), *(row.to(dtype) for row in rows))


def from_both_ranks(step, name):
    """Concatenate a map of both ranks to one row of pixels."""
    maps = [rank[step][name].double() for rank in on_two_ranks()]
    return torch.cat([m.movedim(1, 0).flatten(1) for m in maps], 1)[None, :, None]


@every_step
def test_output_and_input_gradient_match_one_process(step):
    expected = in_one_process(step)
    for name in ("output", "input grad"):
        assert_close(from_both_ranks(step, name), expected[name], rtol=1e-12, atol=1e-12)


@every_step
def test_parameter_gradients_add_up_to_those_of_one_process(step):
    expected = in_one_process(step)
    for name in ("weight grad", "bias grad"):
        total = sum(rank[step][name] for rank in on_two_ranks())
        assert_close(total, expected[name], rtol=1e-12, atol=1e-12)


@every_step
def test_running_statistics_match_one_process_on_every_rank(step):
    expected = in_one_process(step)
    for rank in on_two_ranks():
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert_close(rank[step][name], expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "dtype", "eps"),
    [
        ("bfloat16", torch.bfloat16, 2**-8),
        ("autocast", torch.bfloat16, 2**-8),
        ("float16", torch.float16, 2**-11),
    ],
)
def test_half_precision_only_rounds_input_and_output(case, dtype, eps):
    """Check that statistics keep float32: at a mean of 100, bfloat16 has steps of 0.5."""
    whole = torch.cat([batch("unequal numbers", rank)[0] for rank in (0, 1)])
    expected = new(nn.BatchNorm2d).double()(whole.to(dtype).double()).detach()
    output = torch.cat([rank[case]["output"] for rank in on_two_ranks()])
    assert output.dtype == dtype
    assert_close(output.double(), expected, rtol=eps, atol=1e-4)
    for rank in on_two_ranks():
        assert rank[case]["input grad"].dtype == dtype
        assert rank[case]["weight grad"].dtype == rank[case]["running_var"].dtype == torch.float32


def test_empty_batches_on_all_ranks_change_no_statistics():
    for rank in on_two_ranks():
        result = rank["nothing"]
        assert result["output"].shape == result["input grad"].shape == (0, C, 5, 4)
        assert not result["weight grad"].any()
        assert not result["bias grad"].any()
        assert_close(result["running_mean"], torch.zeros(C))
        assert_close(result["running_var"], torch.ones(C))


def test_evaluation_does_not_communicate():
    for index, rank in enumerate(on_two_ranks()):
        x, _ = batch("unequal numbers", index)
        expected = new(nn.BatchNorm2d).double().eval()(x).detach()
        assert_close(rank["evaluated"]["output"], expected)


def test_detectron2s_precise_statistics_match_all_ranks():
    whole = torch.cat([batch("unequal numbers", rank)[0] for rank in (0, 1)])
    for rank in on_two_ranks():
        assert_close(rank["precise"]["running_mean"], whole.mean((0, 2, 3)))
        # fvcore uses the n of this rank, which causes an error of (n - 1) / n.
        assert_close(rank["precise"]["running_var"], whole.var((0, 2, 3)), rtol=0.02, atol=0)


def test_only_the_input_is_saved_for_the_backward_pass():
    for rank in on_two_ranks():
        assert rank["kept types"] == [torch.bfloat16]


def test_a_mask_head_without_positives_on_one_rank_gets_gradients():
    for rank in on_two_ranks():
        assert_close(rank["mask head"], step_of_a_mask_head(rank=None))
