"""Files in parts: Together's signed addresses, OpenAI's Uploads API, and what goes wrong on the way."""

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from backfill.intake import Intake
from backfill.store import parts_prefix
from backfill.web.api.schemas import PartsAborted, PartsCompleted, PartsInitiated, UploadAnswer, UploadPartAnswer
from tests.unit.web.asgi import call, split
from tests.unit.web.conftest import Api, MakeApi

PART_BYTES = 100


def cut(content: bytes) -> list[bytes]:
    return [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]


async def initiate(api: Api, content: bytes, **members: Any) -> httpx.Response:
    body = {
        "file_name": "large.jsonl",
        "file_size": len(content),
        "num_parts": len(cut(content)),
        "purpose": "batch-api",
        "file_type": "jsonl",
        "checksum": hashlib.sha256(content).hexdigest(),
    }
    return await api.client.post("/v1/files/multipart/initiate", json=body | members)


async def send_parts(api: Api, started: dict[str, Any], pieces: list[bytes]) -> list[dict[str, Any]]:
    sent = []
    for part, piece in zip(started["parts"], pieces, strict=True):
        response = await api.client.put(part["URL"], content=piece, headers=part["Headers"])
        assert response.status_code == 200, response.text
        sent.append({"part_number": part["PartNumber"], "etag": response.headers["etag"].strip('"')})
    return sent


async def finish(api: Api, started: dict[str, Any], parts: list[dict[str, Any]], verb: str = "complete") -> Any:
    body = {"upload_id": started["upload_id"], "file_id": started["file_id"]}
    return await api.client.post(
        f"/v1/files/multipart/{verb}", json=body | ({"parts": parts} if verb == "complete" else {})
    )


async def start(api: Api, content: bytes, **members: Any) -> dict[str, Any]:
    response = await initiate(api, content, **members)
    assert response.status_code == 200, response.text
    PartsInitiated.model_validate(response.json())
    found: dict[str, Any] = response.json()
    return found


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), response.text
    if param:
        assert error["param"] == param
    return str(error["message"])


async def test_parts_in_any_order_become_one_file(api: Api, content: bytes) -> None:
    started = await start(api, content)
    reverse = {"parts": started["parts"][::-1]}
    sent = await send_parts(api, reverse, cut(content)[::-1])
    response = await finish(api, started, sent)
    assert response.status_code == 200, response.text
    file = PartsCompleted.model_validate(response.json()).file
    assert (file.id, file.bytes, file.LineCount, file.filename) == (started["file_id"], len(content), 2, "large.jsonl")
    assert (await api.client.get(f"/v1/files/{file.id}/content")).content == content
    assert await api.create_batch(file.id)
    assert [name for name in api.list_blobs() if "/parts/" in name] == []


async def test_completing_twice_gives_the_same_file(api: Api, content: bytes) -> None:
    started = await start(api, content)
    sent = await send_parts(api, started, cut(content))
    both = await asyncio.gather(finish(api, started, sent), finish(api, started, sent))
    later = await finish(api, started, sent)
    assert [response.status_code for response in (*both, later)] == [200, 200, 200]
    assert both[0].json() == both[1].json() == later.json()


async def test_a_part_sent_again_replaces_the_first(api: Api, content: bytes) -> None:
    started = await start(api, content)
    pieces = cut(content)
    await api.client.put(started["parts"][0]["URL"], content=b"x" * len(pieces[0]))
    sent = await send_parts(api, started, pieces)
    assert (await finish(api, started, sent)).status_code == 200


async def test_a_missing_part_is_named(api: Api, content: bytes) -> None:
    started = await start(api, content)
    sent = await send_parts(api, {"parts": started["parts"][:1]}, cut(content)[:1])
    assert "Part 2 of" in check_error(await finish(api, started, sent), 400, "missing_part", "parts")
    claimed = sent + [{"part_number": part["PartNumber"], "etag": "0"} for part in started["parts"][1:]]
    assert "Part 2 was not uploaded" in check_error(await finish(api, started, claimed), 400, "missing_part")
    # Nothing is lost by that: the client sends the rest and goes on.
    sent += await send_parts(api, {"parts": started["parts"][1:]}, cut(content)[1:])
    assert (await finish(api, started, sent)).status_code == 200


async def test_a_wrong_etag_is_named(api: Api, content: bytes) -> None:
    started = await start(api, content)
    sent = await send_parts(api, started, cut(content))
    wrong = [sent[0], sent[1] | {"etag": sent[0]["etag"]}, *sent[2:]]
    assert "Part 2 " in check_error(await finish(api, started, wrong), 400, "wrong_etag", "parts")
    assert (await api.client.get(f"/v1/files/{started['file_id']}")).json()["status"] == "uploaded"
    quoted = [part | {"etag": f'"{part["etag"]}"'} for part in sent]
    assert (await finish(api, started, quoted)).status_code == 200


async def test_size_and_checksum_are_checked(api: Api, content: bytes) -> None:
    longer = await start(api, content, file_size=len(content) + 1)
    sent = await send_parts(api, longer, cut(content))
    check_error(await finish(api, longer, sent), 400, "size_mismatch", "parts")
    other = await start(api, content, checksum="0" * 64)
    sent = await send_parts(api, other, cut(content))
    check_error(await finish(api, other, sent), 400, "checksum_mismatch", "checksum")


async def test_limits_hold_from_the_start(make_api: MakeApi, content: bytes) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1000})
    check_error(await initiate(api, content, file_size=1001), 413, "file_too_large", "file_size")
    upload = {"filename": "a.jsonl", "bytes": 1001, "mime_type": "", "purpose": "batch"}
    check_error(await api.client.post("/v1/uploads", json=upload), 413, "file_too_large")
    assert api.list_blobs() == []
    started = await start(api, content)
    first = started["parts"][0]["URL"]
    check_error(await api.client.put(first, content=b"x" * (len(content) + 1)), 413, "file_too_large")
    check_error(await api.client.put(first, content=b""), 400, "empty_upload")
    assert [name for name in api.list_blobs() if "/parts/" in name] == []


async def test_parts_that_are_sent_again_and_again_do_not_fill_the_disk(api: Api) -> None:
    body = {"filename": "a.jsonl", "bytes": 100, "mime_type": "", "purpose": "batch"}
    upload_id = (await api.client.post("/v1/uploads", json=body)).json()["id"]
    path = f"/v1/uploads/{upload_id}/parts"
    statuses = [(await api.client.post(path, files={"data": b"x" * 100})).status_code for _ in range(3)]
    assert statuses == [200, 200, 413]


async def test_an_address_is_good_for_its_part_only(api: Api, content: bytes) -> None:
    started, other = await start(api, content), await start(api, content)
    url = started["parts"][0]["URL"]
    for forged in (
        url.replace("/parts/1?", "/parts/2?"),
        url.replace(started["upload_id"], other["upload_id"]),
        url[:-1],
        url.replace(f"{started['upload_id']}/parts/1", started["file_id"]),
    ):
        assert (await api.client.put(forged, content=b"x")).status_code == 403
    expired = url.replace("expires=", "expires=1")
    assert (await api.client.put(expired, content=b"x")).status_code == 403


async def test_abort_leaves_nothing(api: Api, content: bytes) -> None:
    started = await start(api, content)
    sent = await send_parts(api, started, cut(content))
    response = await finish(api, started, [], verb="abort")
    PartsAborted.model_validate(response.json())
    assert (response.status_code, api.list_blobs()) == (200, [])
    assert (await api.client.get(f"/v1/files/{started['file_id']}")).status_code == 404
    assert (await api.client.put(started["parts"][0]["URL"], content=b"x")).status_code == 404
    check_error(await finish(api, started, sent), 404, "not_found", "upload_id")


async def test_what_is_complete_cannot_be_aborted_or_changed(api: Api, content: bytes) -> None:
    started = await start(api, content)
    await finish(api, started, await send_parts(api, started, cut(content)))
    check_error(await finish(api, started, [], verb="abort"), 400, "file_already_uploaded")
    check_error(await api.client.put(started["parts"][0]["URL"], content=b"x"), 400, "file_already_uploaded")
    assert (await api.client.get(f"/v1/files/{started['file_id']}/content")).content == content


async def test_deleting_the_file_removes_everything(api: Api, content: bytes) -> None:
    started = await start(api, content)
    await finish(api, started, await send_parts(api, started, cut(content)))
    assert (await api.client.delete(f"/v1/files/{started['file_id']}")).status_code == 200
    assert api.list_blobs() == []


async def test_an_upload_belongs_to_its_key(make_api: MakeApi, content: bytes) -> None:
    api = await make_api(**{"server.api_keys": ["mine", "other"]})
    api.client.headers["authorization"] = "Bearer mine"
    started = await start(api, content)
    sent = await send_parts(api, started, cut(content))
    api.client.headers["authorization"] = "Bearer other"
    assert (await finish(api, started, sent)).status_code == 404
    assert (await finish(api, started, [], verb="abort")).status_code == 404
    assert (await api.client.post(f"/v1/uploads/{started['upload_id']}/cancel")).status_code == 404


async def test_a_part_whose_connection_breaks_is_not_there(api: Api, content: bytes) -> None:
    started = await start(api, content)
    path = started["parts"][0]["URL"].removeprefix("http://localhost")
    status, _ = await call(api.app, "PUT", path, split(b"x" * 50, size=10, disconnect=True))
    assert status == 400
    assert [name for name in api.list_blobs() if "/parts/" in name] == []


async def create_upload(api: Api, content: bytes, **members: Any) -> dict[str, Any]:
    body = {"filename": "large.jsonl", "bytes": len(content), "mime_type": "application/jsonl", "purpose": "batch"}
    response = await api.client.post("/v1/uploads", json=body | members)
    assert response.status_code == 200, response.text
    UploadAnswer.model_validate(response.json())
    found: dict[str, Any] = response.json()
    return found


async def add_part(api: Api, upload: dict[str, Any], data: bytes) -> str:
    response = await api.client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("part", data)})
    assert response.status_code == 200, response.text
    return UploadPartAnswer.model_validate(response.json()).id


async def test_the_order_of_part_ids_is_the_order_of_the_file(api: Api, content: bytes) -> None:
    upload = await create_upload(api, content, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (upload["status"], upload["file"], upload["bytes"]) == ("pending", None, len(content))
    ids = [await add_part(api, upload, piece) for piece in cut(content)[::-1]][::-1]
    body = {"part_ids": ids, "md5": hashlib.md5(content).hexdigest()}
    response = await api.client.post(f"/v1/uploads/{upload['id']}/complete", json=body)
    completed = UploadAnswer.model_validate(response.json())
    assert completed.status == "completed"
    assert completed.file is not None
    assert (completed.file.bytes, completed.file.expires_at) == (len(content), completed.file.created_at + 7200)
    assert (await api.client.get(f"/v1/files/{completed.file.id}/content")).content == content
    again = await api.client.post(f"/v1/uploads/{upload['id']}/complete", json=body)
    assert again.json() == response.json()


async def test_an_md5_that_is_not_that_of_the_bytes(api: Api, content: bytes) -> None:
    upload = await create_upload(api, content)
    body = {"part_ids": [await add_part(api, upload, content)], "md5": "0" * 32}
    response = await api.client.post(f"/v1/uploads/{upload['id']}/complete", json=body)
    check_error(response, 400, "checksum_mismatch", "md5")


async def test_cancel_leaves_nothing(api: Api, content: bytes) -> None:
    upload = await create_upload(api, content)
    part_id = await add_part(api, upload, content)
    response = await api.client.post(f"/v1/uploads/{upload['id']}/cancel")
    assert UploadAnswer.model_validate(response.json()).status == "cancelled"
    assert api.list_blobs() == []
    path = f"/v1/uploads/{upload['id']}/complete"
    assert (await api.client.post(path, json={"part_ids": [part_id]})).status_code == 404


@pytest.mark.parametrize("upload_id", ["upload_0", "upload_{0}", "file-0", "x" * 5000, "upload_%00", "..%2f"])
async def test_uploads_that_are_not_there(api: Api, upload_id: str) -> None:
    assert (await api.client.post(f"/v1/uploads/{upload_id}/cancel")).status_code == 404


async def test_a_part_of_another_name(api: Api, content: bytes) -> None:
    upload = await create_upload(api, content)
    path = f"/v1/uploads/{upload['id']}/parts"
    check_error(await api.client.post(path, files={"file": ("part", b"x")}), 400, "invalid_request", "file")
    response = await api.client.post(path, data={"other": "x"}, files={})
    assert response.status_code == 400


async def test_a_file_made_in_one_piece_is_no_upload(api: Api, content: bytes) -> None:
    file_id = (await api.upload(content))["id"]
    upload_id = f"upload_{file_id.removeprefix('file-').replace('-', '')}"
    assert (await api.client.post(f"/v1/uploads/{upload_id}/cancel")).status_code == 404


async def test_completing_goes_on_after_a_new_start(api: Api, content: bytes) -> None:
    """Nothing about an upload is only in memory."""
    started = await start(api, content)
    sent = await send_parts(api, started, cut(content))
    services = api.services
    object.__setattr__(services, "intake", Intake(services.blobs, services.metadata, services.config.limits))
    assert (await finish(api, started, sent)).status_code == 200
    assert services.blobs.list(parts_prefix(started["file_id"])) == []
