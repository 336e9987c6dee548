"""Reports as single HTML files, and figures for papers."""

from d2_seesaw.report.comparison_figures import write_interval_figures
from d2_seesaw.report.comparison_page import (
    write_comparison_report,
    write_run_comparison_report,
)
from d2_seesaw.report.dataset_page import write_dataset_report
from d2_seesaw.report.evaluation_page import write_evaluation_report
from d2_seesaw.report.figures import write_figures
from d2_seesaw.report.images.page import write_image_page

__all__ = [
    "write_comparison_report",
    "write_dataset_report",
    "write_evaluation_report",
    "write_figures",
    "write_image_page",
    "write_interval_figures",
    "write_run_comparison_report",
]
