"""How long a context llama.cpp is started with where the settings leave it to the model."""

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["fit_context"]

# What the slots' caches may take of the machine's memory, all together.
_MEMORY_SHARE: Final = 0.25
_CELL_SIZE_BYTES: Final = 2
_STEP_TOKENS: Final = 256
_LEAST_TOKENS: Final = 2048


def fit_context(metadata: Mapping[str, str | int | float], slots: int, memory_bytes: int | None = None) -> int:
    """Tokens of each slot: the model's own context, or what a quarter of the memory holds of it, 2,048 at least.

    llama.cpp takes the memory for the whole context of every slot when it starts. `metadata`: of the GGUF file.
    """
    own = _read(metadata, "context_length") or _LEAST_TOKENS
    token_size_bytes = _measure_token(metadata)
    if not token_size_bytes:
        return min(own, _LEAST_TOKENS)
    memory_bytes = memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = int(memory_bytes * _MEMORY_SHARE) // (slots * token_size_bytes)
    return min(own, max(fitting // _STEP_TOKENS * _STEP_TOKENS, _LEAST_TOKENS))


def _measure_token(metadata: Mapping[str, str | int | float]) -> int:
    """Bytes in a slot's cache; 0 where the file does not tell."""
    heads = _read(metadata, "attention.head_count")
    kept = _read(metadata, "attention.head_count_kv") or heads
    width = _read(metadata, "attention.key_length")
    if not width and heads:
        width = _read(metadata, "embedding_length") // heads
    values = _read(metadata, "attention.value_length") or width
    return _read(metadata, "block_count") * kept * (width + values) * _CELL_SIZE_BYTES


def _read(metadata: Mapping[str, str | int | float], name: str) -> int:
    value = metadata.get(f"{metadata.get('general.architecture')}.{name}", 0)
    return value if isinstance(value, int) else 0
