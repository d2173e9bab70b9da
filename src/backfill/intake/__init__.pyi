from .belonging import check_place
from .collection import Leftover, collect
from .failed_lines import copy_failed_lines
from .failures import FailureChoice, group_failures
from .file_limits import FileLimits, make_size_error
from .inputs import Inputs
from .opening import OpenedStore, open_store
from .parts import (
    Part,
    PartUploads,
    PartWriter,
    StartedUpload,
    UploadPlan,
    make_part_error,
    new_part_id,
    upload_id_of,
)
from .recovery import Recovery, check_database, check_rows, recover
from .retention import Retention, describe_data_size
from .scanner import LineScanner
from .schema_watch import SchemaWatch
from .sweeping import Sweeper, sweep_files
from .table_origin import TableOrigin, read_origin
from .table_requests import LeftOut, MadeRequests, TablePreview, make_requests, preview_requests
from .upload import Intake, Upload, new_file_id
from .uploaded_media import UploadedMedia
from .uploaded_tables import TableFacts, UploadedTables

__all__ = [
    "FailureChoice",
    "FileLimits",
    "Inputs",
    "Intake",
    "LeftOut",
    "Leftover",
    "LineScanner",
    "MadeRequests",
    "OpenedStore",
    "Part",
    "PartUploads",
    "PartWriter",
    "Recovery",
    "Retention",
    "SchemaWatch",
    "StartedUpload",
    "Sweeper",
    "TableFacts",
    "TableOrigin",
    "TablePreview",
    "Upload",
    "UploadPlan",
    "UploadedMedia",
    "UploadedTables",
    "check_database",
    "check_place",
    "check_rows",
    "collect",
    "copy_failed_lines",
    "describe_data_size",
    "group_failures",
    "make_part_error",
    "make_requests",
    "make_size_error",
    "new_file_id",
    "new_part_id",
    "open_store",
    "preview_requests",
    "read_origin",
    "recover",
    "sweep_files",
    "upload_id_of",
]
