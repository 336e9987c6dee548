"""Reports, one HTML file that needs nothing from the network, and the progress of long work."""

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
from d2_seesaw.report.progress import Progress, track

__all__ = [
    "GROUP_COLORS",
    "GROUP_NAMES",
    "Point",
    "Progress",
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
    "track",
    "write_page",
]
