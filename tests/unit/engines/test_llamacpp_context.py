"""How long a context llama.cpp gets where the settings leave it to the model."""

import pytest

from backfill.engines.llamacpp.context import fit_context

# SmolLM2-135M: 2 bytes for keys and values of 3 heads of 64 in 30 layers are 23,040 bytes a token.
SMALL: dict[str, str | int | float] = {
    "general.architecture": "llama",
    "llama.context_length": 8192,
    "llama.block_count": 30,
    "llama.embedding_length": 576,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
}
GIB = 1024**3


@pytest.mark.parametrize(
    ("slots", "memory_bytes", "tokens"), [(8, 24 * GIB, 8192), (8, 4 * GIB, 5632), (64, 4 * GIB, 2048), (1, GIB, 8192)]
)
def test_a_quarter_of_the_memory_is_enough_or_less_is_taken(slots: int, memory_bytes: int, tokens: int) -> None:
    assert fit_context(SMALL, slots, memory_bytes) == tokens


def test_what_the_file_does_not_tell_is_not_made_up() -> None:
    assert fit_context({}, 8, 24 * GIB) == 2048
    assert fit_context({"general.architecture": "x", "x.context_length": 131_072}, 8, 24 * GIB) == 2048
    assert fit_context(SMALL | {"llama.context_length": 512}, 8, GIB) == 512


def test_heads_of_their_own_width_are_measured_by_it() -> None:
    wide = SMALL | {"llama.attention.key_length": 128, "llama.attention.value_length": 128}
    assert fit_context(wide, 8, 8 * GIB) == 5632
