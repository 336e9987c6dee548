"""Metrics for long-tailed data: Detectron2's evaluators of LVIS and of semantic segmentation."""

from d2_seesaw.evaluation.coco_evaluation import MaskScoringCOCOEvaluator
from d2_seesaw.evaluation.comparison import compare
from d2_seesaw.evaluation.detection_columns import DetectionColumns
from d2_seesaw.evaluation.detection_limits import DetectionLimits
from d2_seesaw.evaluation.longtail_analysis import LongTailAnalysis, read_analysis
from d2_seesaw.evaluation.lvis_api import probe_lvis
from d2_seesaw.evaluation.lvis_evaluation import LongTailLVISEvaluator
from d2_seesaw.evaluation.lvis_scoring import LVISScoring, evaluate_results_file
from d2_seesaw.evaluation.mask_rle import encode_masks
from d2_seesaw.evaluation.result_table import drop_absent, print_longtail_results
from d2_seesaw.evaluation.semantic_evaluation import LongTailSemSegEvaluator
from d2_seesaw.evaluation.swallowing import group_outcomes, swallowed

__all__ = [
    "DetectionColumns",
    "DetectionLimits",
    "LVISScoring",
    "LongTailAnalysis",
    "LongTailLVISEvaluator",
    "LongTailSemSegEvaluator",
    "MaskScoringCOCOEvaluator",
    "compare",
    "drop_absent",
    "encode_masks",
    "evaluate_results_file",
    "group_outcomes",
    "print_longtail_results",
    "probe_lvis",
    "read_analysis",
    "swallowed",
]
