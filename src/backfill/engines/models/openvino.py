"""Which model files OpenVINO can run, told from a file's header and without loading the library."""

import importlib.metadata
from pathlib import Path
from typing import Final

from backfill.engines.models.gguf_header import GgufHeader, read_gguf_header

__all__ = ["IR_FILE_NAME", "find_obstacle", "is_installed"]

IR_FILE_NAME: Final = "openvino_model.xml"
"""What makes a folder a model in OpenVINO's own format (IR)."""

# openvino-genai 2026.4, create_from_gguf.
_ARCHITECTURES: Final = frozenset({"llama", "qwen2", "qwen3"})
# ggml's number -> name. F16, Q4_0, Q4_1 and Q8_0 were run; BF16 and Q5_0 were seen to fail; the library has code for
# the two K types.
_TENSOR_TYPES: Final = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K", 14: "Q6_K"}
_OTHER_TYPES: Final = {6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16"}


def is_installed() -> bool:
    """Whether the library is there; there are platforms without a build of it."""
    try:
        importlib.metadata.version("openvino-genai")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def find_obstacle(path: Path) -> str | None:
    """Why OpenVINO cannot run the model, in words that follow its name and a colon; None if nothing speaks against."""
    if path.is_dir():
        return None if (path / IR_FILE_NAME).is_file() else f"the folder has no {IR_FILE_NAME}"
    try:
        header = read_gguf_header(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)
    return _find_obstacle(header)


def _find_obstacle(header: GgufHeader) -> str | None:
    architecture = header.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        return f"its architecture {architecture!r} is none of {', '.join(sorted(_ARCHITECTURES))}"
    foreign = next((kind for kind in header.tensors.values() if kind not in _TENSOR_TYPES), None)
    if foreign is not None:
        return f"it holds tensors of type {_OTHER_TYPES.get(foreign, foreign)}"
    # The library would load these, and leave out what it does not know: the answers would be subtly wrong.
    if (
        header.metadata.get(f"{architecture}.rope.scaling.type", "none") != "none"
        or "rope_freqs.weight" in header.tensors
    ):
        return "it scales positions (RoPE scaling)"
    if header.metadata.get(f"{architecture}.expert_count"):
        return "it is a mixture of experts"
    if int(header.metadata.get("split.count", 1)) > 1:
        return "it is one of several parts"
    return None
