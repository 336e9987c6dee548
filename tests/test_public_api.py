"""The names others import. Adding one is a decision; removing one breaks somebody."""

import importlib

import pytest

PUBLIC = {
    "losses": {
        "ClassificationLoss",
        "InverseFrequencyLoss",
        "RecallLoss",
        "SeesawCrossEntropyLoss",
        "SeesawLoss",
        "SoftmaxLoss",
        "recall_cross_entropy",
        "progressive_constraint",
        "seesaw_cross_entropy",
    },
    "layers": {
        "CarafeDownsample",
        "CarafeUpsample",
        "DeformConv2d",
        "LayerFactory",
        "NormFactory",
        "NormedConv2d",
        "NormedLinear",
        "SyncBatchNorm2d",
        "carafe",
        "carafe_down",
        "deform_convs",
        "is_pointwise",
        "layer_norm",
        "linear_classifier",
        "mask_predictor",
        "normed_linear_classifier",
        "normed_mask_predictor",
        "one_channel",
        "sync_batch_norm",
        "recomputed",
        "roi_align_with_offsets",
    },
    "necks": {"FPG"},
    "roi_heads": {
        "AveragedMaskHeads",
        "CarafeMaskHead",
        "FederatedRCNN",
        "GlobalContextEncoder",
        "HTCLiteROIHeads",
        "LossDrivenCascadeROIHeads",
        "LossDrivenOutputLayers",
        "MaskHeadWithPredictor",
        "OffsetROIPooler",
        "TSDBoxHead",
        "TSDOutputLayers",
        "MaskIoUHead",
        "ScoredMaskHead",
        "TwoSidedBox2BoxTransform",
    },
    "semantic": {"LossDrivenDeepLabV3PlusHead", "LossDrivenSemSegFPNHead"},
    "backbones": {"DilatedBasicBlock", "TimmBackbone", "dilated_resnet_stages"},
    "data": {
        "ClassPixels",
        "FrameSplit",
        "LabelReader",
        "InstaBoost",
        "InstanceAugmentation",
        "InstanceAugmentationDatasetMapper",
        "OpenCVResizeShortestEdge",
        "OpenCVResizeTransform",
        "RandomSampling",
        "RepeatFactorSampling",
        "Sampling",
        "SemanticDatasetMapper",
        "SemanticRepeatFactorSampling",
        "TrainLoader",
        "build_train_loader",
        "category_image_counts",
        "check_dataset_files",
        "class_pixel_counts",
        "datasets_root",
        "frequency_group",
        "group_sizes",
        "load_dataset",
        "read_labels",
        "register_lvis_format",
        "register_semantic_folder",
        "register_synthia_rand_cityscapes",
        "register_synthia_seqs",
    },
    "evaluation": {
        "DetectionColumns",
        "DetectionLimits",
        "LVISScoring",
        "LongTailLVISEvaluator",
        "LongTailSemSegEvaluator",
        "MaskScoringCOCOEvaluator",
        "drop_absent",
        "evaluate_results_file",
        "print_longtail_results",
        "probe_lvis",
    },
    "inference": {"MeanOverSharedProposals", "MultiViewInference", "UnionOfDetections"},
    "checkpoint": {
        "MmdetFile",
        "MmdetModel",
        "StrictCheckpointer",
        "convert_mmdet",
        "convert_resnest",
        "convert_torchvision_resnet",
        "describe_mmdet",
        "read_mmdet_file",
    },
    "engine": {
        "ConfigError",
        "Trainer",
        "apply_overrides",
        "check_config",
        "cosine_with_warmup",
        "load_config",
        "multi_step_with_warmup",
        "polynomial_with_warmup",
        "train_options",
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_those_recorded(name):
    module = importlib.import_module(f"d2_seesaw.{name}")
    assert set(module.__all__) == PUBLIC[name]
    assert all(hasattr(module, public) for public in PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_importing_twice_is_harmless(name):
    module = importlib.import_module(f"d2_seesaw.{name}")
    importlib.reload(module)
