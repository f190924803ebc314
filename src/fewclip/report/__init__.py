"""Results as something to read: rows -> tables, plots, one page.

`build.build` makes a `Report` of rows; `text` and `html` write it. Needs the extra `report` only for pages with plots.
"""
