"""Which kind an engine is, and what is said about a setting that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from backfill.config import (
    AutoEngineConfig,
    Config,
    ExternalEngineConfig,
    LlamaCppEngineConfig,
    ManagedEngineConfig,
    OpenVinoEngineConfig,
    SpeechEngineConfig,
    load_config,
)
from backfill.errors import InvalidConfig

COMMON = ("kind", "models", "endpoints", "exclusive", "cost_per_hour", "watts", "place", "replicas", "resources")


def load_engine(**engine: Any) -> Any:
    return load_config(environment={}, overrides={"engines": {"one": engine}}).engines["one"]


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        ({}, AutoEngineConfig),
        ({"model": "m.gguf", "slots": 2}, AutoEngineConfig),
        ({"embeddings": True}, LlamaCppEngineConfig),
        ({"url": "http://127.0.0.1:1/v1"}, ExternalEngineConfig),
        ({"kind": "openvino"}, OpenVinoEngineConfig),
        ({"kind": "speech", "workers": 2}, SpeechEngineConfig),
        ({"kind": "vllm", "model": "owner/model"}, ManagedEngineConfig),
        ({"kind": "sglang", "model": "owner/model"}, ManagedEngineConfig),
    ],
)
def test_the_kind_follows_from_what_is_set(engine: dict[str, Any], kind: type) -> None:
    assert type(load_engine(**engine)) is kind


def test_the_environment_reaches_the_default_engine_by_its_name() -> None:
    environment = {
        "BACKFILL_ENGINES__LOCAL__CONCURRENCY": "4",
        "BACKFILL_ENGINES__LOCAL__DETERMINISTIC": "true",
        "BACKFILL_ENGINES__LOCAL__ENDPOINTS": '["/v1/completions"]',
    }
    engine = load_config(Path("/dev/null"), environment=environment).engines["local"]
    assert engine == AutoEngineConfig(concurrency=4, deterministic=True, endpoints=("/v1/completions",))


def test_without_engines_there_are_four_that_share_no_endpoint() -> None:
    kinds = {name: engine.kind for name, engine in Config().engines.items()}
    texts = {"local": "auto", "local-embeddings": "llamacpp", "local-responses": "llamacpp"}
    assert kinds == texts | {"local-audio": "speech"}
    assert Config().engines["local-responses"].endpoints == ("/v1/responses",)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"slot": 2}, r"Unknown setting 'engines\.one\.slot'\. Did you mean 'slots'\?"),
        ({"kind": "vllm", "model": "m", "argument": []}, r"'engines\.one\.argument'\. Did you mean 'arguments'\?"),
        ({"kind": "vllm"}, r"'engines\.one\.model' is not valid: it is missing"),
        ({"kind": "openvino", "kv_cache": 1}, r"Did you mean 'kv_cache_gb'\?"),
        ({"kind": "speech", "endpoints": ["/v1/rerank"]}, r"'engines\.one\.endpoints\.0' is not valid: .*translations"),
        ({"endpoints": ["/v1/rerank"]}, r"'engines\.one\.endpoints\.0' is not valid: .*embeddings"),
        ({"url": "http://h", "endpoints": ["rerank"]}, r"'engines\.one\.endpoints' is not valid: .*\"/v1/rerank\""),
        ({"url": "http://h", "endpoints": ["/v1/../x"]}, r"'engines\.one\.endpoints' is not valid: .*'/v1/\.\./x'"),
        ({"url": "http://h", "endpoints": ["/chat/completions"]}, r'write "/v1/chat/completions"'),
        (
            {"kind": "tgi"},
            r"'engines\.one' is not valid: .*'auto', 'openvino', 'llamacpp', 'speech', 'external', 'vllm'",
        ),
        ({"concurrency": 2000}, r"'engines\.one\.concurrency' is not valid: it must be at most 1024\."),
        ({"slots": 0}, r"'engines\.one\.slots' is not valid: it must be at least 1\."),
        ({"deterministic": "often"}, r"'engines\.one\.deterministic' is not valid: it must be true or false\."),
        ({"url": "gpu:8000"}, r"'engines\.one\.url' is not valid: must begin with http:// or https://\."),
        ({"kind": "external", "url": 7}, r"'engines\.one\.url' is not valid: it must be a string\."),
    ],
)
def test_what_is_wrong_is_named(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load_engine(**engine)


ON_RAY = {"url": "http://h", "place": "ray"}


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        ({"one": {"place": "slurm"}}, r"'engines\.one\.place' is not valid: .*'here' or 'ray'"),
        ({"one": {"resources": {"GPU": 1}}}, r"'engines\.one' is not valid: .*need place = \"ray\""),
        ({"one": {"replicas": {"max": 2}}}, r"'engines\.one' is not valid: .*need place = \"ray\""),
        ({"one": ON_RAY | {"replicas": {"min": 3, "max": 2}}}, r"'engines\.one\.replicas' .*: min must not be more"),
        ({"one": ON_RAY | {"replicas": {"max": 0}}}, r"'engines\.one\.replicas\.max' is not valid: .*at least 1"),
        ({"one": ON_RAY | {"replicas": {"maximum": 1}}}, r"Unknown setting 'engines\.one\.replicas\.maximum'"),
        ({"one": ON_RAY | {"resources": {"GPU": 0}}}, r"'engines\.one\.resources\.GPU' is not valid"),
    ],
)
def test_what_is_wrong_with_places_is_named(engines: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load_config(environment={}, overrides={"engines": engines})


@pytest.mark.parametrize("address", ["ray-head", "http://ray-head:6379", ":6379", "ray-head:port"])
def test_an_address_of_a_cluster_has_a_port(address: str) -> None:
    with pytest.raises(InvalidConfig, match=r'\'ray\.address\' is not valid: must be "auto" or an address'):
        load_config(environment={}, overrides={"ray.address": address})


def test_who_has_which_engines() -> None:
    engines = {"far": ON_RAY, "near": {"url": "http://h"}}

    def list_own(**server: str) -> list[str]:
        config = load_config(environment={}, overrides={"engines": engines, "server": server})
        return [*config.find_own_engines(config.server.role)]

    assert list_own() == list_own(role="work") == ["near"]
    assert list_own(role="api") == []
    assert list_own(role="scale") == list_own(role="work", engine="far") == ["far"]
    with pytest.raises(InvalidConfig, match=r"must be the name of an engine \(far, near\); 'fra' is none"):
        list_own(role="work", engine="fra")
    with pytest.raises(InvalidConfig, match=r'needs server\.role = "work"'):
        list_own(engine="far")


def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "backfill.toml"
    for content, reason in ((b"a = \xff", "byte 5 is not UTF-8"), (b"a = 1\nb", "at line 2|at end of document")):
        path.write_bytes(content)
        with pytest.raises(InvalidConfig, match=f"backfill.toml is not valid TOML: .*{reason}"):
            load_config(path, environment={})


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (
            {"metadata": "mysql://me:hush@h/rows"},
            r"'store\.metadata' is not valid: must be a URL such as \"postgresql://",
        ),
        ({"metadata": "postgresql://me:hush@h"}, r"'store\.metadata' is not valid: must be a URL"),
        ({"metadata": "postgresql://me:hush@[h/rows"}, r"'store\.metadata' is not valid: must be a URL"),
        ({"metadata": ["postgresql://me:hush@h/rows"]}, r"'store\.metadata' is not valid: it must be a string"),
        ({"blobs": "http://me:hush@h/b"}, r"'store\.blobs' is not valid: must be a URL such as \"s3://"),
        ({"blobs": "s3://me:hush@bucket"}, r"'store\.blobs' is not valid: .*without keys"),
    ],
)
def test_a_store_that_is_none_is_refused_without_its_password(store: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message) as refused:
        load_config(environment={}, overrides={"store": store})
    assert "hush" not in str(refused.value)


def test_a_store_is_read_from_the_environment_and_shows_no_password() -> None:
    environment = {"BACKFILL_STORE__METADATA": "postgresql://me:hush@h/rows", "BACKFILL_STORE__BLOBS": "s3://bucket/a"}
    config = load_config(Path("/dev/null"), environment=environment)
    assert config.store.metadata is not None
    assert config.store.metadata.get_secret_value() == "postgresql://me:hush@h/rows"
    assert config.store.blobs == "s3://bucket/a"
    assert "hush" not in repr(config)
    assert load_config(Path("/dev/null"), environment={"BACKFILL_STORE__METADATA": ""}).store.metadata is None


@pytest.mark.parametrize(
    ("title", "section"),
    [
        ("`auto`", AutoEngineConfig),
        ("`openvino`", OpenVinoEngineConfig),
        ("`llamacpp`", LlamaCppEngineConfig),
        ("`external`", ExternalEngineConfig),
        ("`vllm` and `sglang`", ManagedEngineConfig),
    ],
)
def test_every_setting_of_an_engine_is_documented(title: str, section: type[BaseModel]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    common = page.partition("\nFor every engine:\n")[2].partition("\n\n`")[0]
    assert [name for name in COMMON if f"\n| `{name}` |" not in common] == []
    table = page.partition(f"\n{title}, ")[2].partition("\n\n`")[0].partition("\n### ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("| `"): row[2].strip("`") for row in rows}
    fields = {name: field for name, field in section.model_fields.items() if name not in COMMON}
    assert set(documented) == set(fields)
    for name, field in fields.items():
        expected = "required" if field.is_required() else json.dumps(field.default)
        assert documented[name] == expected.replace("null", "none"), name
