"""A projector (mmproj) that a test makes: small and random, so that the real way of a picture runs and says nothing."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

__all__ = ["PICTURE_TOKENS", "make_projector"]

_SIDE, _PATCH = 96, 16
_WIDTH, _INNER, _HEADS, _BLOCKS = 64, 128, 4, 3
PICTURE_TOKENS = (_SIDE // _PATCH) ** 2
"""What each picture takes of a prompt."""


def make_projector(path: Path, text_width: int = 576, seed: int = 0) -> Path:
    """Write one for a model whose embeddings are so wide; the default is the packaged model's."""
    dice = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 0.05) -> NDArray[np.float32]:
        return (dice.standard_normal(shape) * scale).astype(np.float32)

    ones = np.ones(_WIDTH, np.float32)
    tensors = {
        "v.class_embd": draw(_WIDTH),
        "v.patch_embd.weight": draw(_WIDTH, 3, _PATCH, _PATCH),
        "v.position_embd.weight": draw(PICTURE_TOKENS + 1, _WIDTH),
        "v.pre_ln.weight": ones,
        "v.pre_ln.bias": draw(_WIDTH),
        "mm.0.weight": draw(text_width, _WIDTH, scale=0.1),
        "mm.0.bias": draw(text_width),
        "mm.2.weight": draw(text_width, text_width, scale=0.04),
        "mm.2.bias": draw(text_width),
    }
    for number in range(_BLOCKS):
        block = f"v.blk.{number}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors |= {
                f"{block}.{name}.weight": draw(_WIDTH, _WIDTH, scale=0.15),
                f"{block}.{name}.bias": draw(_WIDTH),
            }
        for name in ("ln1", "ln2"):
            tensors |= {f"{block}.{name}.weight": ones, f"{block}.{name}.bias": draw(_WIDTH)}
        tensors |= {f"{block}.ffn_up.weight": draw(_INNER, _WIDTH, scale=0.15), f"{block}.ffn_up.bias": draw(_INNER)}
        tensors |= {
            f"{block}.ffn_down.weight": draw(_WIDTH, _INNER, scale=0.15),
            f"{block}.ffn_down.bias": draw(_WIDTH),
        }
    writer = gguf.GGUFWriter(str(path), "clip")
    _describe(writer, text_width)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter, text_width: int) -> None:
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    sizes = {
        "image_size": _SIDE,
        "patch_size": _PATCH,
        "embedding_length": _WIDTH,
        "feed_forward_length": _INNER,
        "projection_dim": text_width,
        "block_count": _BLOCKS,
        "attention.head_count": _HEADS,
    }
    for name, size in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
