"""ImageNet-LT: crops of 224 x 224 with color jitter, every image once per epoch.

The transforms are those of the authors of ImageNet-LT (Liu et al., CVPR 2019) and of Kang et al.
(ICLR 2020). Models are chosen by the validation split; published accuracies are those of the test
split, dataloader.test.dataset.names=imagenet_lt_test.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from torchvision.transforms import (
    CenterCrop,
    ColorJitter,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)

from d2_seesaw.data import (
    ClassificationDatasetMapper,
    RandomSampling,
    build_train_loader,
    load_dataset,
)
from d2_seesaw.evaluation import LongTailClassificationEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(load_dataset)(names="imagenet_lt_train"),
        sampling=L(RandomSampling)(),
        mapper=L(ClassificationDatasetMapper)(
            transforms=[
                L(RandomResizedCrop)(size=224),
                L(RandomHorizontalFlip)(),
                L(ColorJitter)(brightness=0.4, contrast=0.4, saturation=0.4, hue=0),
            ],
            image_format="${model.input_format}",
        ),
        total_batch_size=512,
        num_workers=12,
        aspect_ratio_grouping=False,  # all crops have one size
    ),
    test=L(build_detection_test_loader)(
        dataset=L(load_dataset)(names="imagenet_lt_val", filter_empty=False),
        mapper=L(ClassificationDatasetMapper)(
            transforms=[L(Resize)(size=256), L(CenterCrop)(size=224)],
            image_format="${model.input_format}",
        ),
        batch_size=64,
        num_workers=12,
    ),
    evaluator=L(LongTailClassificationEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}/inference",
    ),
)
