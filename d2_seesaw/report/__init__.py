"""Reports: one HTML file that needs nothing from the network."""

from d2_seesaw.report.render import (
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
)
from d2_seesaw.report.svg.charts import Point, bar_chart, rank_chart
from d2_seesaw.report.svg.lines import Series, line_chart
from d2_seesaw.report.svg.marks import Key
from d2_seesaw.report.svg.scatter import Spot, scatter_chart
from d2_seesaw.report.svg.shares import Share, ShareBar, share_bars

__all__ = [
    "GROUP_COLORS",
    "GROUP_NAMES",
    "Key",
    "Numeral",
    "Point",
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
]
