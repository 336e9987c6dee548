"""Reports: one HTML file that needs nothing from the network. Pure Python."""

from d2_seesaw.report.charts import Point, bar_chart, rank_chart
from d2_seesaw.report.page import (
    GROUP_COLORS,
    GROUP_NAMES,
    Tag,
    cards,
    details,
    group_tag,
    page,
    paragraph,
    picture_grid,
    section,
    table,
    write_page,
)

__all__ = [
    "GROUP_COLORS",
    "GROUP_NAMES",
    "Point",
    "Tag",
    "bar_chart",
    "cards",
    "details",
    "group_tag",
    "page",
    "paragraph",
    "picture_grid",
    "rank_chart",
    "section",
    "table",
    "write_page",
]
