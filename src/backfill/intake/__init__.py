"""The way in: an upload becomes a sealed file and its index, in one streaming pass that holds no bodies."""

from backfill.intake.failed_lines import copy_failed_lines
from backfill.intake.parts import Part, PartUploads, PartWriter, StartedUpload, UploadPlan, new_part_id, upload_id_of
from backfill.intake.retention import Retention, sweep_files
from backfill.intake.scanner import LineScanner
from backfill.intake.upload import Intake, Upload, new_file_id

__all__ = [
    "Intake",
    "LineScanner",
    "Part",
    "PartUploads",
    "PartWriter",
    "Retention",
    "StartedUpload",
    "Upload",
    "UploadPlan",
    "copy_failed_lines",
    "new_file_id",
    "new_part_id",
    "sweep_files",
    "upload_id_of",
]
