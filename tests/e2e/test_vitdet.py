"""Small versions of configs/vitdet through train_net.py: short real trainings."""

from statistics import mean

import pytest

# tests/checkpoint/test_vitdet_parity.py runs the steps of small models by default.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*meshgrid:UserWarning", "ignore:.*timm:FutureWarning"),
]

STAGES = range(3)
HEADS = "model.roi_heads"
SQUARE = 144
STEPS = 40
RUN = [
    f"train.max_iter={STEPS}",
    "train.init_checkpoint=",
    "train.amp.enabled=false",
    "train.clip_grad.max_norm=10",
    "lr_multiplier.warmup_iters=10",
    "optimizer.lr=2e-3",
    "dataloader.train.dataset.names=quickstart_train",
    "dataloader.test.dataset.names=quickstart_val",
    f"dataloader.train.mapper.augmentations.1.target_height={SQUARE}",
    f"dataloader.train.mapper.augmentations.1.target_width={SQUARE}",
    "dataloader.train.mapper.augmentations.1.min_scale=0.8",
    "dataloader.train.mapper.augmentations.1.max_scale=1.2",
    f"dataloader.train.mapper.augmentations.2.crop_size=[{SQUARE},{SQUARE}]",
    f"dataloader.test.mapper.augmentations.0.short_edge_length={SQUARE}",
    f"dataloader.test.mapper.augmentations.0.max_size={SQUARE}",
    "model.backbone.square_pad=160",
    "model.backbone.out_channels=32",
    "model.proposal_generator.head.in_channels=32",
    "model.proposal_generator.anchor_generator.sizes=[[16],[32],[64],[96],[128]]",
    "model.proposal_generator.batch_size_per_image=64",
    "model.proposal_generator.pre_nms_topk=[200,100]",
    "model.proposal_generator.post_nms_topk=[60,40]",
    f"{HEADS}.num_classes=20",
    f"{HEADS}.batch_size_per_image=32",
    *(f"{HEADS}.box_heads.{k}.input_shape.channels=32" for k in STAGES),
    *(f"{HEADS}.box_heads.{k}.conv_dims=[32]" for k in STAGES),
    *(f"{HEADS}.box_heads.{k}.fc_dims=[64]" for k in STAGES),
    *(f"{HEADS}.box_predictors.{k}.input_shape.channels=64" for k in STAGES),
    f"{HEADS}.mask_head.input_shape.channels=32",
    f"{HEADS}.mask_head.conv_dims=[32,32]",
]
NET = "model.backbone.net"
BACKBONES = {
    "vit_b_{}_100ep": [
        f"{NET}.embed_dim=48",
        f"{NET}.depth=4",
        f"{NET}.num_heads=2",
        f"{NET}.window_size=4",
        f"{NET}.window_block_indexes=[0,2]",
        f"{NET}.use_act_checkpoint=true",
    ],
    "swin_b_{}_50ep": [
        "model.backbone.bottom_up.embed_dim=16",
        "model.backbone.bottom_up.depths=[2,1,1,1]",
        "model.backbone.bottom_up.num_heads=[1,2,2,4]",
    ],
    "eva02_b_{}_50k": [
        f"{NET}.pretrained=false",
        f"{NET}.model_options={{img_size:160,patch_size:16,embed_dim:48,depth:4,num_heads:2}}",
        "optimizer.params.lr_factor_func.num_layers=4",
    ],
}
FEDERATED = [f"{HEADS}.box_predictors.{k}.cls_loss.num_sampled=10" for k in STAGES]


@pytest.mark.parametrize("loss", ["federated", "seesaw"])
@pytest.mark.parametrize("recipe", BACKBONES)
def test_a_small_version_learns_and_evaluates(train_net, tmp_path, recipe, loss):
    config = f"configs/vitdet/cascade_mask_rcnn_{recipe.format(loss)}.py"
    options = [*RUN, *BACKBONES[recipe], *(FEDERATED if loss == "federated" else ())]
    run = train_net(tmp_path, *options, config=config)
    totals = [line["total_loss"] for line in run.metrics if "total_loss" in line]
    assert len(totals) == STEPS
    assert mean(totals[-10:]) < 0.8 * mean(totals[:10])
    assert {"segm/AP", "bbox/AP"} <= set().union(*run.metrics)
