"""Reports, one HTML file that needs nothing from the network, and the progress of long work."""

from d2_seesaw.report.charts import Point, bar_chart, rank_chart
from d2_seesaw.report.lines import Series, line_chart
from d2_seesaw.report.page import (
    GROUP_COLORS,
    GROUP_NAMES,
    Numeral,
    Tag,
    cards,
    columns,
    details,
    group_tag,
    heading,
    page,
    paragraph,
    picture_grid,
    section,
    table,
    write_page,
)
from d2_seesaw.report.progress import Progress, track
from d2_seesaw.report.scatter import Spot, scatter_chart
from d2_seesaw.report.shares import Share, ShareBar, share_bars
from d2_seesaw.report.svg import Key

__all__ = [
    "GROUP_COLORS",
    "GROUP_NAMES",
    "Key",
    "Numeral",
    "Point",
    "Progress",
    "Series",
    "Share",
    "ShareBar",
    "Spot",
    "Tag",
    "bar_chart",
    "cards",
    "columns",
    "details",
    "group_tag",
    "heading",
    "line_chart",
    "page",
    "paragraph",
    "picture_grid",
    "rank_chart",
    "scatter_chart",
    "section",
    "share_bars",
    "table",
    "track",
    "write_page",
]
