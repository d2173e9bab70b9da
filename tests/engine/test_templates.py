"""What a chat template is given: tools and settings, on a copy of the packaged model with a template of its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from gguf import GGUFReader, GGUFWriter

from backfill.config import DEFAULT_MODEL, LlamaCppEngineConfig, OpenVinoEngineConfig
from backfill.engines import Answered, EngineClient, LlamaCppReplica, OpenVinoReplica
from backfill.engines.models.requantise import _copy_metadata

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}<tool>{{ tool | tojson }}</tool>{% endfor %}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if loudly %}LOUD LOUD LOUD{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def model(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tools.gguf"
    reader = GGUFReader(models_dir / f"{DEFAULT_MODEL}.Q8_0.gguf")
    writer = GGUFWriter(path, "llama")
    _copy_metadata(reader, writer)
    writer.kv_data[0]["tokenizer.chat_template"].value = TEMPLATE
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["openvino", "llamacpp"])
async def replica(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OpenVinoReplica | LlamaCppReplica]:
    places = {"models_dir": model.parent, "log_dir": tmp_path_factory.mktemp("log")}
    async with EngineClient(request_timeout_s=60) as client:
        made: OpenVinoReplica | LlamaCppReplica
        if request.param == "openvino":
            made = OpenVinoReplica("local", OpenVinoEngineConfig(model=str(model), threads=1), client, **places)
        else:
            config = LlamaCppEngineConfig(model=str(model), slots=1, context_tokens=512, threads=1)
            made = LlamaCppReplica("local", config, client, **places)
        try:
            await made.start()
            yield made
        finally:
            await made.stop()


async def count_prompt_tokens(replica: OpenVinoReplica | LlamaCppReplica, **members: Any) -> int:
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, "temperature": 0} | members
    reply = await replica.send(CHAT, msgspec.json.encode(body))
    assert isinstance(reply, Answered), reply
    return reply.usage.prompt_tokens


async def test_tools_reach_the_template(replica: OpenVinoReplica | LlamaCppReplica) -> None:
    plain = await count_prompt_tokens(replica)
    assert await count_prompt_tokens(replica, tools=TOOLS) > plain
    assert await count_prompt_tokens(replica, tools=TOOLS, tool_choice="none") == plain


async def test_settings_reach_the_template(replica: OpenVinoReplica | LlamaCppReplica) -> None:
    plain = await count_prompt_tokens(replica)
    assert await count_prompt_tokens(replica, chat_template_kwargs={"loudly": True}) > plain
