"""Training steps on synthetic images, for tests of whole models."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage


def picture(objects, seed=0, size=(144, 144), num_classes=20):
    """Draw a training image with the given number of objects."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    side = torch.tensor([width, height])
    corners = 0.6 * side * torch.rand(objects, 2, generator=generator)
    extents = side * (0.15 + 0.2 * torch.rand(objects, 2, generator=generator))
    boxes = torch.cat([corners, corners + extents], dim=1).floor()
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    instances = Instances(
        size,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.randint(num_classes, (objects,), generator=generator),
        gt_masks=BitMasks(masks),
    )
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": height, "width": width}


def step_of(model, objects, **options):
    """Run forward and backward of one training step; return the losses."""
    batch = [picture(number, seed, **options) for seed, number in enumerate(objects)]
    model.train().zero_grad()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def assert_complete(model, losses):
    """Check that losses are finite, as are the gradients of exactly the trained parameters."""
    assert all(loss.isfinite() for loss in losses.values()), losses
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
