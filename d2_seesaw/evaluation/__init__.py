"""LVIS metrics for long-tailed data: Detectron2's evaluator on the official ``lvis`` package."""

from d2_seesaw.evaluation.coco_evaluation import MaskScoringCOCOEvaluator
from d2_seesaw.evaluation.lvis_api import probe_lvis
from d2_seesaw.evaluation.lvis_evaluation import LongTailLVISEvaluator
from d2_seesaw.evaluation.result_table import drop_absent, print_longtail_results

__all__ = [
    "LongTailLVISEvaluator",
    "MaskScoringCOCOEvaluator",
    "drop_absent",
    "print_longtail_results",
    "probe_lvis",
]
