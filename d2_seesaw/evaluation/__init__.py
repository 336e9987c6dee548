"""Evaluators and metrics for long-tailed data."""

from d2_seesaw.data.rle import encode_masks
from d2_seesaw.evaluation.analysis import LongTailAnalysis, read_analysis
from d2_seesaw.evaluation.analysis.comparison import compare
from d2_seesaw.evaluation.analysis.confusion import confusions_with_more_frequent, group_outcomes
from d2_seesaw.evaluation.analysis.judging import JudgedDataset, read_judged
from d2_seesaw.evaluation.analysis.run_comparison import compare_runs
from d2_seesaw.evaluation.classification_evaluator import LongTailClassificationEvaluator
from d2_seesaw.evaluation.coco_evaluator import MaskScoringCOCOEvaluator
from d2_seesaw.evaluation.lvis.official import probe_lvis
from d2_seesaw.evaluation.lvis_evaluator import LongTailLVISEvaluator
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.saved_results import evaluate_results_file
from d2_seesaw.evaluation.scoring import EvaluationResult, LVISScoring
from d2_seesaw.evaluation.semantic_evaluator import LongTailSemSegEvaluator
from d2_seesaw.evaluation.tables import drop_absent, print_longtail_results

__all__ = [
    "DetectionLimits",
    "Detections",
    "EvaluationResult",
    "JudgedDataset",
    "LVISScoring",
    "LongTailAnalysis",
    "LongTailClassificationEvaluator",
    "LongTailLVISEvaluator",
    "LongTailSemSegEvaluator",
    "MaskScoringCOCOEvaluator",
    "compare",
    "compare_runs",
    "confusions_with_more_frequent",
    "drop_absent",
    "encode_masks",
    "evaluate_results_file",
    "group_outcomes",
    "print_longtail_results",
    "probe_lvis",
    "read_analysis",
    "read_judged",
]
