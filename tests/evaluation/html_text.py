"""Text extraction from HTML report pages."""

import re


def section(page, title):
    """Return the section whose heading ends with the title."""
    return re.search(rf"<h2>[^<]*{title}</h2>.*?</section>", page, re.DOTALL)[0]


def cells(html):
    """Return the text of each table cell, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)]
        for row in rows
    ]


def tables(html):
    """Return the rows of each table, header first."""
    return [cells(table) for table in re.findall(r"<table>.*?</table>", html, re.DOTALL)]


def tooltips(html):
    """Return the tooltips of all charts."""
    return re.findall(r"<title>(.*?)</title>(?!<style>|\s*<style>)", html)


def cards(page):
    """Map the caption of each card to its number."""
    found = re.findall(r'<div class="card"><b>(.*?)</b><span>(.*?)</span>', page)
    return {name: value for value, name in found}
