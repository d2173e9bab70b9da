"""The way in: an upload becomes a sealed file and its index, in one streaming pass that holds no bodies."""

from backfill.intake.failed_lines import copy_failed_lines
from backfill.intake.scanner import LineScanner
from backfill.intake.upload import Intake, Upload, new_file_id

__all__ = ["Intake", "LineScanner", "Upload", "copy_failed_lines", "new_file_id"]
