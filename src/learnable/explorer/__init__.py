"""Examples to look through in a browser: a table in, a page with scatter, charts, filters, search and download out.

The page is embedding-atlas; this room gives it the columns, the coordinates and the charts of the first screen.
"""

from learnable.explorer.ids import read_ids as read_ids
from learnable.explorer.map import with_map as with_map
from learnable.explorer.sheet import Sheet as Sheet
from learnable.explorer.sheet import sheet_of as sheet_of
from learnable.explorer.site import LOOPBACK as LOOPBACK
from learnable.explorer.site import export as export
from learnable.explorer.site import listen as listen
from learnable.explorer.site import needs_explorer as needs_explorer
from learnable.explorer.site import serve as serve
