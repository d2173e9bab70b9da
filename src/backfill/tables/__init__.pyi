from .answer_schema import AnswerSchema, Misfit
from .answers import NOT_RUN, AnswerReader, Usage, read_result_line
from .column_types import AnswerColumn, ColumnType, parse_columns
from .joining import Joined, ResultFiles, join
from .memory import MemoryTable, is_arrow, open_rows
from .names import check_known, check_new
from .opening import HUB_PREFIX, check_same_form, is_table, open_table
from .requests import CHAT, TABLE_ENDPOINTS, TRANSCRIPTIONS, RequestBuilder, RequestPlan, Unsendable, row_id
from .table import Block, Table, TableWriter
from .template import Template
from .values import NoText, render_cell, render_text

__all__ = [
    "CHAT",
    "HUB_PREFIX",
    "NOT_RUN",
    "TABLE_ENDPOINTS",
    "TRANSCRIPTIONS",
    "AnswerColumn",
    "AnswerReader",
    "AnswerSchema",
    "Block",
    "ColumnType",
    "Joined",
    "MemoryTable",
    "Misfit",
    "NoText",
    "RequestBuilder",
    "RequestPlan",
    "ResultFiles",
    "Table",
    "TableWriter",
    "Template",
    "Unsendable",
    "Usage",
    "check_known",
    "check_new",
    "check_same_form",
    "is_arrow",
    "is_table",
    "join",
    "open_rows",
    "open_table",
    "parse_columns",
    "read_result_line",
    "render_cell",
    "render_text",
    "row_id",
]
