"""The list of models, in the shape of whoever asks, with what is known of prices and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from backfill.catalogue import Catalogue
from backfill.config import CatalogueModelConfig
from backfill.status import ServedModel
from backfill.web.api.model_schemas import ModelAnswer, ModelPage, SupportedModelPage
from tests.unit.web.conftest import Api, MakeApi

LLAMA = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
CHAT = "/v1/chat/completions"
OWN = CatalogueModelConfig.model_validate({"aliases": ["free"], "input_per_million": 0, "output_per_million": 0})


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    async def list_models() -> list[ServedModel]:
        chat = [ServedModel(name, (CHAT,)) for name in (LLAMA, "nobody/knows", "own/free")]
        return [*chat, ServedModel("vectors", ("/v1/embeddings",))]

    catalogue = Catalogue.load(models={"own/free": OWN})
    return await make_api(services={"catalogue": catalogue, "list_models": list_models})


async def ask(api: Api, path: str, agent: str = "curl/8") -> Any:
    response = await api.client.get(path, headers={"user-agent": agent})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("path", "agent", "is_array"),
    [
        ("/v1/models", "OpenAI/Python 3.54.0", False),
        ("/v1/models", "Together/v1 PythonBindings/1.5.35", True),
        ("/models", "AsyncTogether/Python 2.42.0", True),
        ("/v1/models", "Together/JS 0.52.0", True),
        ("/v1/models", "somebody/1", False),
        ("/together/v1/models", "somebody/1", True),
        ("/openai/v1/models", "Together/JS 0.52.0", False),
    ],
)
async def test_each_client_gets_its_own_shape(api: Api, path: str, agent: str, *, is_array: bool) -> None:
    found = await ask(api, path, agent)
    if is_array:
        found = {"object": "list", "data": found}
    assert [model.id for model in ModelPage.model_validate(found).data] == [
        LLAMA,
        "nobody/knows",
        "own/free",
        "vectors",
    ]


async def test_an_unknown_price_is_null_and_one_of_zero_is_zero(api: Api) -> None:
    models = {model["id"]: model for model in (await ask(api, "/v1/models"))["data"]}
    assert models[LLAMA]["pricing"] == {
        "input": 1.04,
        "cached_input": None,
        "output": 1.04,
        "hourly": 0,
        "base": 0,
        "finetune": 0,
        "audio_per_minute": None,
    }
    told = ("batch_discount_percent", "price_source", "price_date", "retired")
    assert [models[LLAMA][name] for name in told] == [50, "LiteLLM 1.110.2", "2026-11-26", "2026-10-22"]
    assert models[LLAMA]["context_length"] == 131_072
    assert models[LLAMA]["owned_by"] == "meta-llama"
    prices = {name: (one["pricing"]["input"], one["batch_discount_percent"]) for name, one in models.items()}
    assert prices == {LLAMA: (1.04, 50), "nobody/knows": (None, 0), "own/free": (0, 0), "vectors": (None, 0)}
    assert [one["type"] for one in models.values()] == ["chat", "chat", "chat", "embedding"]


async def test_newer_clients_of_together_get_whole_prices_or_none(api: Api) -> None:
    for agent, has_object in (("Together/Python 2.42.0", False), ("Together/v1 PythonBindings/1.5.35", True)):
        found = {model["id"]: model["pricing"] for model in await ask(api, "/v1/models", agent)}
        assert (found[LLAMA]["input"], found["own/free"]["output"]) == (1.04, 0)
        assert (found["nobody/knows"] is not None) == has_object


@pytest.mark.parametrize("path", [f"/v1/models/{LLAMA}", f"/v1/models/{LLAMA.replace('/', '%2F')}", f"/models/{LLAMA}"])
async def test_one_model_whose_id_has_a_slash(api: Api, path: str) -> None:
    assert ModelAnswer.model_validate(await ask(api, path)).id == LLAMA


async def test_one_model_by_another_name_of_it(api: Api) -> None:
    assert (await ask(api, "/v1/models/free"))["id"] == "own/free"


@pytest.mark.parametrize("name", ["nothing", "Qwen/Qwen2.5-7B-Instruct-Turbo"])
async def test_a_model_that_is_not_served_is_not_there_however_well_known(api: Api, name: str) -> None:
    for path in ("/v1/models", "/v2/supported-models"):
        response = await api.client.get(f"{path}/{name}")
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("path", ["/v2/supported-models", "/v1/v2/supported-models", "/together/v2/supported-models"])
async def test_the_list_of_togethers_third_major(api: Api, path: str) -> None:
    models = SupportedModelPage.model_validate(await ask(api, path)).data
    assert [model.pricing.input for model in models] == [1.04, None, 0, None]
    assert [model.contextLength for model in models] == ["131072", None, None, None]
    assert await ask(api, f"{path}/{LLAMA}") == models[0].model_dump()


async def test_the_document_tells_the_truth_of_files_that_a_user_gives(make_api: MakeApi, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[models.small-model]\naliases = ["small"]\noutput_per_million = 0.1\n')
    api = await make_api(services={"catalogue": Catalogue.load(path)})
    assert (await ask(api, "/v1/models/small"))["pricing"]["output"] == 0.1
