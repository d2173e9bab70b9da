"""Who serves what, and under which name."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.config import Config
from backfill.engines import (
    AutoReplica,
    EngineClient,
    ExternalReplica,
    Fleet,
    LlamaCppReplica,
    ManagedReplica,
    Member,
    OpenVinoReplica,
    rename_model,
)
from bench.null.answers import MODEL
from bench.null.process import NullEngine

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def make_fleet(tmp_path: Path, **engines: object) -> Fleet:
    config = {"data_dir": tmp_path, "models_dir": tmp_path, "engines": engines} if engines else {"data_dir": tmp_path}
    return Fleet.from_config(Config.model_validate(config))


def external(**models: str) -> dict[str, object]:
    return {"kind": "external", "url": "http://127.0.0.1:1", "models": models}


def test_the_built_in_engines_take_any_model(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    chat, embeddings = fleet.resolve("gpt-4o", CHAT), fleet.resolve("gpt-4o", EMBEDDINGS)
    assert chat is not None
    assert embeddings is not None
    assert [replica.name for replica in chat.replicas] == ["local"]
    assert [replica.name for replica in embeddings.replicas] == ["local-embeddings"]
    responses = fleet.resolve("gpt-4o", "/v1/responses")
    assert responses is not None
    assert [replica.name for replica in responses.replicas] == ["local-responses"]
    audio = fleet.resolve("gpt-4o-transcribe", "/v1/audio/transcriptions")
    assert audio is not None
    assert [replica.name for replica in audio.replicas] == ["local-audio"]
    speech = ["openai/whisper-base", "openai/whisper-large-v3", "whisper-base"]
    assert fleet.served_models() == sorted(["smollm2-135m-instruct", *speech])
    assert fleet.served_models("/v1/audio/transcriptions") == speech
    assert fleet.served_models(EMBEDDINGS) == ["smollm2-135m-instruct"]
    assert fleet.served_models("/v1/messages") == []


def test_who_is_said_to_hear_gets_the_clips(tmp_path: Path) -> None:
    transcriptions = "/v1/audio/transcriptions"

    def choose(endpoint: str, **engines: object) -> list[str]:
        route = make_fleet(tmp_path, **engines).resolve("any", endpoint)
        assert route is not None
        return [replica.name for replica in route.replicas]

    text, ear = external(**{"*": ""}), {"kind": "speech"}
    listed = external(**{"*": ""}) | {"endpoints": [transcriptions]}
    assert choose(transcriptions, text=text, ear=ear) == ["ear"]
    assert choose(transcriptions, text=text, ear=ear, listed=listed) == ["ear", "listed"]
    # Where nobody is said to, whoever may gets them.
    assert choose(transcriptions, text=text) == ["text"]
    assert choose("/v1/rerank", text=text, ear=ear) == ["text"]
    # Nothing of that goes for what every server has.
    assert choose(CHAT, text=text, local={"kind": "auto"}) == ["text", "local"]


def test_an_exact_id_wins_over_any(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, one=external(**{"*": ""}), two=external(big="big-fp8"), three=external(big=""))
    route = fleet.resolve("big", CHAT)
    assert route is not None
    assert [replica.name for replica in route.replicas] == ["two", "three"]
    assert route.names == {"two": "big-fp8", "three": "big"}
    other = fleet.resolve("small", CHAT)
    assert other is not None
    assert [replica.name for replica in other.replicas] == ["one"]
    assert fleet.served_models() == ["big"]


def test_an_alias_goes_where_its_id_is_listed(tmp_path: Path) -> None:
    engines = {"any": external(**{"*": ""}), "id": external(big=""), "named": external(huge="")}
    config = {"data_dir": tmp_path, "models_dir": tmp_path, "engines": engines}
    aliases = {"large": "big", "huge": "big", "other": "third"}
    fleet = Fleet.from_config(Config.model_validate(config), lambda name: aliases.get(name, name))
    found = {name: fleet.resolve(name, CHAT) for name in ("large", "huge", "other", "more")}
    assert {name: dict(route.names) for name, route in found.items() if route} == {
        "large": {"id": "big"},
        "huge": {"named": "huge"},  # an engine that lists the very name comes first
        "other": {"any": "third"},
        "more": {"any": "more"},
    }
    assert [route.model for route in found.values() if route] == list(found)


async def test_an_engine_that_takes_any_id_is_asked_what_it_has(tmp_path: Path) -> None:
    with NullEngine() as engine:
        asked = {"kind": "external", "url": engine.url, "models": {"*": "", "more": ""}}
        async with make_fleet(tmp_path, one=asked, two=external(**{"*": "one"}), three=external(**{"*": ""})) as fleet:
            models = await fleet.list_models()
    assert [model.id for model in models] == ["more", MODEL, "one"]
    assert {CHAT, EMBEDDINGS} <= set(models[1].endpoints)


def test_an_exact_id_counts_for_its_endpoint_only(tmp_path: Path) -> None:
    listed = {"kind": "llamacpp", "models": {"m": ""}}
    fleet = make_fleet(tmp_path, one=listed, two=external(**{"*": "other"}))
    route = fleet.resolve("m", EMBEDDINGS)
    assert route is not None
    assert route.names == {"two": "other"}


def test_every_kind_is_made(tmp_path: Path) -> None:
    kinds: dict[str, tuple[dict[str, object], type]] = {
        "a": ({"kind": "auto"}, AutoReplica),
        "b": ({"kind": "openvino"}, OpenVinoReplica),
        "c": ({"kind": "llamacpp"}, LlamaCppReplica),
        "d": (external(), ExternalReplica),
        "e": ({"kind": "vllm", "model": "m"}, ManagedReplica),
        "f": ({"kind": "sglang", "model": "m"}, ManagedReplica),
    }
    settings = {name: engine | {"exclusive": "gpu", "endpoints": [CHAT]} for name, (engine, _) in kinds.items()}
    fleet = make_fleet(tmp_path, **settings)
    assert [type(replica) for replica in fleet.replicas] == [kind for _, kind in kinds.values()]
    assert {replica.limits.exclusive for replica in fleet.replicas} == {"gpu"}
    assert {replica.limits.endpoints for replica in fleet.replicas} == {frozenset({CHAT})}


def test_a_managed_engine_knows_its_model_by_one_name(tmp_path: Path) -> None:
    models = {"*": "", "sql": "sql-adapter"}
    fleet = make_fleet(tmp_path, gpu={"kind": "vllm", "model": "/models/qwen3-8b", "models": models})
    chosen, adapted = fleet.resolve("gpt-4o", CHAT), fleet.resolve("sql", CHAT)
    assert chosen is not None
    assert adapted is not None
    assert chosen.names == {"gpu": "qwen3-8b"}
    assert adapted.names == {"gpu": "sql-adapter"}
    assert fleet.served_models() == ["qwen3-8b", "sql"]


def test_concurrency_begins_below_its_ceiling(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, one=external(), two=external() | {"concurrency": 4})
    limits = [replica.limits for replica in fleet.replicas]
    assert [(each.first_concurrency, each.concurrency) for each in limits] == [(16, 1024), (4, 4)]


def test_nobody_serves_it(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, one=external(a=""))
    assert fleet.resolve("b", CHAT) is None
    assert fleet.resolve("*", CHAT) is None
    assert fleet.resolve("a", "/v1/nowhere") is None


def test_routes_are_kept_and_bounded(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, one=external(**{"*": ""}))
    assert fleet.resolve("a", CHAT) is fleet.resolve("a", CHAT)
    for number in range(5000):
        fleet.resolve(f"model-{number}", CHAT)
    assert len(fleet._routes) <= 1024


def test_a_route_tells_what_the_model_is_called_where(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, one=external(m=""), two=external(m="upstream"))
    route = fleet.resolve("m", CHAT)
    assert route is not None
    assert dict(route.names) == {"one": "m", "two": "upstream"}


async def test_stopping_what_never_started(tmp_path: Path) -> None:
    async with make_fleet(tmp_path) as fleet:
        pass
    await fleet.stop()


async def test_replicas_stop_side_by_side() -> None:
    class Slow:
        def __init__(self, together: asyncio.Barrier) -> None:
            self.name = f"slow-{id(self)}"
            self.together = together

        async def stop(self) -> None:
            await self.together.wait()

    together = asyncio.Barrier(3)
    members = [Member(Slow(together), {}) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.wait_for(Fleet(members, EngineClient(1)).stop(), 5)


KEYS = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, JSON), KEYS)
def test_renaming_changes_the_model_only(members: dict[str, object], name: str) -> None:
    # Spaces inside a value must survive too, so the values are encoded by other rules than msgspec's.
    raw = {key: msgspec.json.format(msgspec.json.encode(value), indent=1) for key, value in members.items()}
    body = b"{" + b", ".join(msgspec.json.encode(key) + b": " + value for key, value in raw.items()) + b"}"
    renamed = msgspec.json.decode(rename_model(body, name), type=dict[str, msgspec.Raw])
    assert msgspec.json.decode(renamed.pop("model")) == name
    raw.pop("model", None)
    assert {key: bytes(value) for key, value in renamed.items()} == raw


@pytest.mark.parametrize("body", [b"", b"[1]", b'"x"', b"{", b'{"a":"\xff"}'])
def test_what_cannot_be_renamed_stays(body: bytes) -> None:
    assert rename_model(body, "x") in (body, b'{"a":"\xff","model":"x"}')
