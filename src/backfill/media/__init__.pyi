from .data_urls import decode_data_url, is_data_url
from .failures import MediaRefused, MediaUnavailable
from .formats import MediaFormat, find_format
from .inspection import check_known, inspect_media
from .library import BatchMedia, MediaLibrary
from .local_files import LocalFiles
from .pictures import PictureFacts, check_picture, convert_picture
from .request_body import Named, check_fit, check_inline, put_media_in
from .shared_folder import claim_folder

__all__ = [
    "BatchMedia",
    "LocalFiles",
    "MediaFormat",
    "MediaLibrary",
    "MediaRefused",
    "MediaUnavailable",
    "Named",
    "PictureFacts",
    "check_fit",
    "check_inline",
    "check_known",
    "check_picture",
    "claim_folder",
    "convert_picture",
    "decode_data_url",
    "find_format",
    "inspect_media",
    "is_data_url",
    "put_media_in",
]
