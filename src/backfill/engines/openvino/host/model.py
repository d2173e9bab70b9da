"""A model loaded into OpenVINO: what makes its pipeline, its tokens and its settings for a request."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
import openvino_genai

from backfill.engines.host_refusal import Refusal
from backfill.engines.openvino.host.context import read_context_tokens
from backfill.engines.openvino.host.grammar import GrammarCheck, make_structured_output
from backfill.engines.openvino.host.pipeline import Prompt, shorten
from backfill.engines.openvino.host.requests import ChatPrompt, Generation, Sampling, TextPrompt, TokenPrompt
from backfill.engines.openvino.messages import HostSettings

__all__ = ["Model"]

# More in one step makes those that decode wait longer and computes no faster.
_STEP_TOKENS_MAX: Final = 2048
_SEED_LIMIT: Final = 2**64
# With these an answer is the same whatever is computed beside it: all in 32 bits, nothing quantised as it comes along.
_DETERMINISTIC: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


class Model:
    """The pipeline and everything that depends on which model it runs."""

    def __init__(self, settings: HostSettings) -> None:
        """Load it; takes seconds.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no model, or its context is unknown and the settings name none.
            RuntimeError: OpenVINO cannot run it.

        """
        path = Path(settings.model)
        own_context = read_context_tokens(path)
        if not (own_context or settings.context_tokens):
            raise ValueError("The model does not tell how long its context is: set context_tokens.")
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(path), _make_scheduler_config(settings), "CPU", _make_properties(settings)
        )
        self._tokenizer = self.pipeline.get_tokenizer()
        context_tokens = min(filter(None, (own_context, settings.context_tokens)))
        self.context_tokens = min(context_tokens, _measure_longest(self._tokenizer, context_tokens))
        """Prompt and answer of one request at most."""
        self._tokens: dict[int, bytes] = {number: token for token, number in self._tokenizer.get_vocab().items()}
        self._vocabulary_size = max(self._tokens) + 1
        self._grammars = GrammarCheck(self._tokenizer, self._vocabulary_size)
        self._end_tokens = frozenset(self.pipeline.get_config().stop_token_ids)
        self._has_tools = "tools" in self._tokenizer.chat_template

    def encode(self, prompt: ChatPrompt | TextPrompt | TokenPrompt) -> Prompt:
        """The prompt in tokens.

        Raises:
            Refusal: the model's template or vocabulary does not have what the prompt needs.

        """
        if isinstance(prompt, ChatPrompt):
            text = self._apply_template(prompt)
            encoded = Prompt(self._tokenizer.encode(text, add_special_tokens=False).input_ids)
        elif isinstance(prompt, TextPrompt):
            encoded = Prompt(self._tokenizer.encode(prompt.text).input_ids)
        else:
            encoded = Prompt(self._make_tensor(prompt.token_ids))
        if not encoded.tokens:
            raise Refusal("'prompt' is empty: the engine needs one token at least.", "prompt")
        return encoded

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return str(self._tokenizer.decode(token_ids))

    def get_token(self, token_id: int) -> bytes:
        """The bytes a token stands for."""
        return self._tokens.get(token_id, b"")

    def is_end(self, token_id: int) -> bool:
        """Whether the model ends its answers with this token."""
        return token_id in self._end_tokens

    def make_config(self, generation: Generation, answer_tokens: int, choice: int) -> Any:
        """The engine's settings for one choice; each choice has a seed of its own.

        Raises:
            Refusal: the engine cannot do what the request asks for.

        """
        sampling = generation.sampling
        config = self.pipeline.get_config()
        config.max_new_tokens = answer_tokens
        config.ignore_eos = sampling.ignore_eos
        config.logprobs = int(generation.log_probs)
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        config.stop_strings = set(sampling.stop)
        # Without it the engine would cut at a token; the host cuts at the character.
        config.include_stop_str_in_output = True
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            _set_randomness(config, sampling, choice)
        if sampling.grammar is not None:
            self._grammars.check(sampling.grammar)
            config.structured_output_config = make_structured_output(sampling.grammar)
        return config

    def _apply_template(self, prompt: ChatPrompt) -> str:
        if prompt.tools and not self._has_tools:
            raise Refusal("The model's chat template has no place for 'tools'.", "tools")
        called = next((i for i, message in enumerate(prompt.messages) if message.get("tool_calls")), None)
        if called is not None and not self._has_tools:
            param = f"messages[{called}].tool_calls"
            raise Refusal(f"The model's chat template has no place for '{param}'.", param)
        try:
            text = self._tokenizer.apply_chat_template(
                prompt.messages,
                add_generation_prompt=True,
                tools=prompt.tools or None,
                extra_context=prompt.settings or None,
            )
        except RuntimeError as error:
            raise Refusal(f"The model's chat template refuses the messages: {shorten(error)}", "messages") from None
        return str(text)

    def _make_tensor(self, token_ids: list[int]) -> openvino.Tensor:
        largest = max(token_ids, default=0)
        if largest >= self._vocabulary_size:
            raise Refusal(f"'prompt' has the token {largest}; the model has {self._vocabulary_size}.", "prompt")
        return openvino.Tensor(np.array([token_ids], dtype=np.int64))


def _measure_longest(tokenizer: Any, tokens: int) -> int:
    """How many of so many tokens the tokenizer keeps: it cuts off what is more than its own limit, and does not say."""
    length: int = tokenizer.encode("a " * tokens).input_ids.shape[1]
    return length


def _set_randomness(config: Any, sampling: Sampling, choice: int) -> None:
    config.temperature = sampling.temperature
    config.top_p = sampling.top_p
    config.min_p = sampling.min_p
    if sampling.top_k:
        config.top_k = sampling.top_k
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    config.rng_seed = (seed + choice) % _SEED_LIMIT


def _make_scheduler_config(settings: HostSettings) -> Any:
    config = openvino_genai.SchedulerConfig()
    config.cache_size = settings.kv_cache_gb
    config.enable_prefix_caching = True
    config.max_num_batched_tokens = _STEP_TOKENS_MAX
    config.max_num_seqs = settings.concurrency
    return config


def _make_properties(settings: HostSettings) -> dict[str, Any]:
    properties: dict[str, Any] = dict(_DETERMINISTIC) if settings.deterministic else {}
    if settings.threads:
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    return properties
