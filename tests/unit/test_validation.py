"""Faults in our own words."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from backfill.validation import describe_fault, describe_json_fault
from backfill.web.api.batches import CreateBatch
from backfill.web.api.parts import CompleteParts, CompleteUpload, CreateUpload, InitiateParts

BATCH = {"endpoint": "/v1/chat/completions", "input_file_id": "file-1"}
PARTS = {"file_name": "a", "file_size": 1, "num_parts": 1, "purpose": "batch"}


@pytest.mark.parametrize(
    ("model", "value", "said"),
    [
        (CreateBatch, {"metadata": {str(number): "x" for number in range(17)}}, "must have at most 16 entries"),
        (CreateBatch, {"metadata": {"k" * 65: "x"}}, "must have at most 64 characters"),
        (CreateBatch, {"metadata": {"k": 7}}, "must be a string"),
        (CreateBatch, {"metadata": []}, "must be an object of names and values"),
        (CreateBatch, {"priority": 1.5}, "must be a whole number"),
        (CreateBatch, {"priority": -(10**30)}, "must be at least -2147483647"),
        (CreateBatch, {"output_expires_after": {"anchor": "now", "seconds": 3600}}, "must be 'created_at'"),
        (CreateBatch, {"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "must be at least 3600"),
        (CreateBatch, {"output_expires_after": 7}, "must be an object of names and values"),
        (InitiateParts, PARTS | {"checksum": "abc"}, "must be the SHA-256 of the bytes as 64 hexadecimal digits"),
        (InitiateParts, PARTS | {"num_parts": True}, "must be a whole number"),
        (CompleteUpload, {"part_ids": []}, "must not be empty"),
        (CompleteUpload, {"part_ids": "a"}, "must be a list"),
        (CompleteUpload, {"part_ids": ["a"], "md5": "g" * 32}, "must be the MD5 of the bytes as 32 hexadecimal digits"),
        (CompleteParts, {"upload_id": "a", "file_id": "b", "parts": [7]}, "must be an object of names and values"),
        (CreateUpload, {"filename": "a", "bytes": 0, "purpose": "batch"}, "must be at least 1"),
    ],
)
def test_a_fault_is_told_without_the_words_of_the_library(model: type[BaseModel], value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate((BATCH | value) if model is CreateBatch else value)
    assert describe_fault(caught.value.errors()[0]) == said


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it ends where a value should stand (line 1, column 0)"),
        ('{"a', "it ends inside a string (line 1, column 3)"),
        ("{\n", "it ends inside an object (line 2, column 0)"),
        ("[1", "it ends inside a list (line 1, column 2)"),
        ('{"a" 1}', "a colon is missing (line 1, column 6)"),
        ("[1 2]", "a comma or the end of the list is missing (line 1, column 4)"),
        ('{"a":1 "b":2}', "a comma or the end of the object is missing (line 1, column 8)"),
        ("{a:1}", "a name without quotes (line 1, column 2)"),
        ('{"a":1,}', "a comma with nothing behind it (line 1, column 8)"),
        ("{} {}", "something stands behind its end (line 1, column 4)"),
        ("{\"a\":'b'}", "there is no value where one should stand (line 1, column 6)"),
        ('{"a":nil}', "a word other than true, false and null (line 1, column 7)"),
        ('{"a":"\\q"}', "an unknown escape in a string (line 1, column 8)"),
        ('{"a":"\n"}', "a control character in a string, which must be escaped (line 2, column 0)"),
        ('{"a":01}', "a number that is none (line 1, column 7)"),
        ('{"a":"\\ud83d"}', "half of a surrogate pair in a string (line 1, column 13)"),
        ("[" * 1000, "it is nested too deeply (line 1, column 202)"),
    ],
)
def test_a_fault_of_json_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Anything.model_validate_json(text)
    assert describe_json_fault(caught.value.errors()[0]["msg"].removeprefix("Invalid JSON: ")) == said
