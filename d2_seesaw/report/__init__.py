"""Reports as one HTML file without anything from the network. Needs neither torch nor Detectron2."""

from d2_seesaw.report.charts import Point, bar_chart, rank_chart
from d2_seesaw.report.page import (
    cards,
    details,
    page,
    paragraph,
    picture_grid,
    section,
    table,
    write_page,
)

__all__ = [
    "Point",
    "bar_chart",
    "cards",
    "details",
    "page",
    "paragraph",
    "picture_grid",
    "rank_chart",
    "section",
    "table",
    "write_page",
]
