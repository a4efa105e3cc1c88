"""Examples to look through in a browser: a table in, a page with scatter, charts, filters, search and download out.

The page is embedding-atlas; this room gives it the columns, the coordinates and the charts of the first screen.
"""

from learnable.explorer.ids import read_ids
from learnable.explorer.map import with_map
from learnable.explorer.sheet import Sheet, sheet_of
from learnable.explorer.site import LOOPBACK, export, listen, needs_explorer, serve

__all__ = [
    "LOOPBACK",
    "Sheet",
    "export",
    "listen",
    "needs_explorer",
    "read_ids",
    "serve",
    "sheet_of",
    "with_map",
]
