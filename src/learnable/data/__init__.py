"""Rows in and out: any common fine-tuning file becomes a pool of conversations, and the chosen rows a file again."""

from learnable.data.beside import boolean_columns as boolean_columns
from learnable.data.beside import read_made as read_made
from learnable.data.decontamination import evaluation_digests as evaluation_digests
from learnable.data.decontamination import in_evaluation as in_evaluation
from learnable.data.formats import FORMATS as FORMATS
from learnable.data.formats import as_row as as_row
from learnable.data.pairs import about_pairs as about_pairs
from learnable.data.pairs import answers_of as answers_of
from learnable.data.pairs import doubts as doubts
from learnable.data.pairs import pairs_of as pairs_of
from learnable.data.pool import HELD_OUT as HELD_OUT
from learnable.data.pool import hold_out as hold_out
from learnable.data.pool import is_pool as is_pool
from learnable.data.pool import load_pool as load_pool
from learnable.data.pool import pool_identity as pool_identity
from learnable.data.pool import prompt_key as prompt_key
from learnable.data.pool import readable as readable
from learnable.data.pool import save_pool as save_pool
from learnable.data.reading import digests as digests
from learnable.data.reading import of_another as of_another
from learnable.data.reading import read as read
from learnable.data.sources import base_name as base_name
from learnable.data.sources import names_of as names_of
from learnable.data.writing import write_dropped as write_dropped
from learnable.data.writing import write_rows as write_rows
