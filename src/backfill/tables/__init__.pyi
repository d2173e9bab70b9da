from .answer_schema import AnswerSchema, Misfit
from .answers import NOT_RUN, AnswerReader, Usage, read_result_line
from .column_types import AnswerColumn, ColumnType, parse_columns
from .joining import Joined, ResultFiles, join
from .memory import MemoryTable, is_arrow, open_rows
from .names import check_known, check_new
from .opening import HUB_PREFIX, NO_PARQUET, check_same_form, has_parquet, is_table, open_form, open_table
from .question import Question, choose_free
from .recognition import LOOK_BYTES, Form, holds_requests, recognise_form
from .requests import CHAT, TABLE_ENDPOINTS, TRANSCRIPTIONS, RequestBuilder, RequestPlan, Unsendable, row_id
from .result_writing import NAME_COLUMN, NameBlock, ResultWriter
from .row_ids import RowIds, number_rows
from .table import Block, Table, TableWriter
from .template import Template
from .values import NoText, render_cell, render_text

__all__ = [
    "CHAT",
    "HUB_PREFIX",
    "LOOK_BYTES",
    "NAME_COLUMN",
    "NOT_RUN",
    "NO_PARQUET",
    "TABLE_ENDPOINTS",
    "TRANSCRIPTIONS",
    "AnswerColumn",
    "AnswerReader",
    "AnswerSchema",
    "Block",
    "ColumnType",
    "Form",
    "Joined",
    "MemoryTable",
    "Misfit",
    "NameBlock",
    "NoText",
    "Question",
    "RequestBuilder",
    "RequestPlan",
    "ResultFiles",
    "ResultWriter",
    "RowIds",
    "Table",
    "TableWriter",
    "Template",
    "Unsendable",
    "Usage",
    "check_known",
    "check_new",
    "check_same_form",
    "choose_free",
    "has_parquet",
    "holds_requests",
    "is_arrow",
    "is_table",
    "join",
    "number_rows",
    "open_form",
    "open_rows",
    "open_table",
    "parse_columns",
    "read_result_line",
    "recognise_form",
    "render_cell",
    "render_text",
    "row_id",
]
