from .call import RowResult, Stopped
from .calls import RunOptions, arun, astream, run, stream
from .chunk_answers import ChunkAnswers, read_finished, read_rest
from .result_files import check_target, replacing
from .results_feed import ResultsFeed
from .settings import choose_model, configure_run, limit_concurrency, list_built_in_models
from .state import LOCAL_OWNER, discard_state, find_state, name_busy
from .stop import Stop
from .table_job import CHUNK_ROWS, TableJob
from .table_run import ShowProgress, TableCounts, TableRun

__all__ = [
    "CHUNK_ROWS",
    "LOCAL_OWNER",
    "ChunkAnswers",
    "ResultsFeed",
    "RowResult",
    "RunOptions",
    "ShowProgress",
    "Stop",
    "Stopped",
    "TableCounts",
    "TableJob",
    "TableRun",
    "arun",
    "astream",
    "check_target",
    "choose_model",
    "configure_run",
    "discard_state",
    "find_state",
    "limit_concurrency",
    "list_built_in_models",
    "name_busy",
    "read_finished",
    "read_rest",
    "replacing",
    "run",
    "stream",
]
