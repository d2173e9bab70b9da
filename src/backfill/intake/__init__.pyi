from .collection import Leftover, collect
from .failed_lines import copy_failed_lines
from .failures import FailureChoice, group_failures
from .inputs import Inputs
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
from .recovery import Recovery, check_database, check_place, check_rows, recover
from .retention import Retention, describe_data_size, sweep_files
from .scanner import LineScanner
from .upload import FileLimits, Intake, Upload, make_size_error, new_file_id
from .uploaded_media import UploadedMedia

__all__ = [
    "FailureChoice",
    "FileLimits",
    "Inputs",
    "Intake",
    "Leftover",
    "LineScanner",
    "Part",
    "PartUploads",
    "PartWriter",
    "Recovery",
    "Retention",
    "StartedUpload",
    "Upload",
    "UploadPlan",
    "UploadedMedia",
    "check_database",
    "check_place",
    "check_rows",
    "collect",
    "copy_failed_lines",
    "describe_data_size",
    "group_failures",
    "make_part_error",
    "make_size_error",
    "new_file_id",
    "new_part_id",
    "recover",
    "sweep_files",
    "upload_id_of",
]
