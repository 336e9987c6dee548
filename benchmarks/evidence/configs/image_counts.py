"""instances.py with Seesaw factors from the number of training images of each class.

The loss of the paper counts the sampled RoIs of each class while it trains.
"""

from detectron2.config import LazyCall as L
from image_counts import ImageCountsSeesawLoss

from d2_seesaw.data import training_class_counts

from .instances import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.cls_loss._target_ = ImageCountsSeesawLoss
model.roi_heads.box_predictor.cls_loss.class_counts = L(training_class_counts)(
    names="${dataloader.train.dataset.names}", of="images"
)
