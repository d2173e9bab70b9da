from .audio_request import DEFAULT_AUDIO_FORMAT, find_audio_problem, list_form_fields
from .bad_line import FaultyRequest, explain_line, explain_no_request
from .endpoint import find_endpoint, find_target_problem
from .line_shape import HAS_FILE, HAS_MEDIA, Fault, find_request_problem, is_request, read_fault, shape_of_fault
from .lines import ParsedLine, parse_line
from .media_references import ReferenceFault, find_references, may_have_media, may_have_media_elsewhere, put_in
from .media_tokens import MediaNeed, guess_prompt_tokens, weigh_media
from .picture_size import read_data_url_size
from .quotation import quote
from .retry_after import read_retry_after
from .window import parse_window

__all__ = [
    "DEFAULT_AUDIO_FORMAT",
    "HAS_FILE",
    "HAS_MEDIA",
    "Fault",
    "FaultyRequest",
    "MediaNeed",
    "ParsedLine",
    "ReferenceFault",
    "explain_line",
    "explain_no_request",
    "find_audio_problem",
    "find_endpoint",
    "find_references",
    "find_request_problem",
    "find_target_problem",
    "guess_prompt_tokens",
    "is_request",
    "list_form_fields",
    "may_have_media",
    "may_have_media_elsewhere",
    "parse_line",
    "parse_window",
    "put_in",
    "quote",
    "read_data_url_size",
    "read_fault",
    "read_retry_after",
    "shape_of_fault",
    "weigh_media",
]
