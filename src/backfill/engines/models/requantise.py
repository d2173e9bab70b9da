"""Rewrites a GGUF file with its quantised tensors as Q8_0: `python -m backfill.engines.models.requantise FROM TO`.

llama.cpp has no fast CPU kernel for some types (Q4_1 above all); Q8_0 is fast everywhere and loses nothing that the
file still held. It runs as a process of its own because it takes the memory of the largest tensor as 32-bit floats
a few times over, and some seconds of pure computation.
"""

import sys
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

__all__ = ["main", "requantise"]

# These stay as they are: norms and biases, which llama.cpp wants in full, and what is Q8_0 already.
_KEPT = frozenset(
    {
        GGMLQuantizationType.F32,
        GGMLQuantizationType.F16,
        GGMLQuantizationType.BF16,
        GGMLQuantizationType.Q8_0,
        GGMLQuantizationType.I8,
        GGMLQuantizationType.I16,
        GGMLQuantizationType.I32,
    }
)
_BLOCK = 32


def requantise(source: Path, target: Path) -> None:
    """Write `source` to `target` with every quantised tensor as Q8_0 and all metadata kept.

    Raises:
        ValueError: the file is no GGUF file, or holds a type that cannot be read.

    """
    reader = GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = GGUFWriter(target, architecture, endianess=reader.endianess)
    _copy_metadata(reader, writer)
    kinds = [_choose(tensor) for tensor in reader.tensors]
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        shape = [int(size) for size in reversed(tensor.shape)]
        count = int(tensor.n_elements)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            writer.add_tensor_info(tensor.name, shape, tensor.data.dtype, tensor.data.nbytes)
        else:
            row = [*shape[:-1], shape[-1] // block * size]
            writer.add_tensor_info(tensor.name, row, tensor.data.dtype, count // block * size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        data = tensor.data
        if kind != tensor.tensor_type:
            data = quantize(dequantize(data, tensor.tensor_type), kind)
        writer.write_tensor_data(data)
    writer.close()


def _choose(tensor: gguf.ReaderTensor) -> GGMLQuantizationType:
    if tensor.tensor_type in _KEPT or int(tensor.shape[0]) % _BLOCK:
        return tensor.tensor_type
    return GGMLQuantizationType.Q8_0


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    for field in reader.fields.values():
        # The writer makes these itself: "GGUF.version" and the like are the file's header, seen as fields.
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        if field.name == gguf.Keys.General.FILE_TYPE:
            writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)


def main(arguments: list[str]) -> int:
    """Requantise; the exit status is 1, with one line on stderr, where the file cannot be read."""
    source, target = (Path(argument) for argument in arguments)
    try:
        requantise(source, target)
    except (ValueError, KeyError, NotImplementedError) as error:
        print(f"{source.name} cannot be requantised: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
