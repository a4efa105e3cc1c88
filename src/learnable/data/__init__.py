"""Rows in and out: any common fine-tuning file becomes a pool of conversations, and the chosen rows a file again."""

from learnable.data.flags import boolean_columns
from learnable.data.formats import FORMATS, as_row, detect
from learnable.data.made import MADE, read_made
from learnable.data.pool import (
    HELD_OUT,
    hold_out,
    is_pool,
    load_pool,
    pool_identity,
    prompt_key,
    readable,
    save_pool,
)
from learnable.data.reading import digests, read
from learnable.data.records import place
from learnable.data.sources import base_name, names_of
from learnable.data.starter import STARTER_ROWS, starter_rows
from learnable.data.starter_task import starter_task_rows
from learnable.data.writing import write_dropped, write_rows

__all__ = [
    "FORMATS",
    "HELD_OUT",
    "MADE",
    "STARTER_ROWS",
    "as_row",
    "base_name",
    "boolean_columns",
    "detect",
    "digests",
    "hold_out",
    "is_pool",
    "load_pool",
    "names_of",
    "place",
    "pool_identity",
    "prompt_key",
    "read",
    "read_made",
    "readable",
    "save_pool",
    "starter_rows",
    "starter_task_rows",
    "write_dropped",
    "write_rows",
]
