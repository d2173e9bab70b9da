"""Whether the engine can follow a grammar, found out where a failure harms nobody.

OpenVINO compiles a grammar in the first step of the request that brings it. One that cannot be compiled makes that
step fail, and the pipeline never steps again, whatever else it was computing. So every grammar is compiled here before:
by a second pipeline on the same tokenizer (which keeps what it compiled) and a model of a single constant.
"""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import openvino
import openvino_genai
from openvino import opset13

from backfill.engines.host_refusal import Refusal
from backfill.engines.openvino.host.requests import Grammar

__all__ = ["GrammarCheck", "make_structured_output"]

_KNOWN_MAX: Final = 1024
_INPUTS: Final = {
    "input_ids": ([-1, -1], np.int64),
    "attention_mask": ([-1, -1], np.int64),
    "position_ids": ([-1, -1], np.int64),
    "beam_idx": ([-1], np.int32),
}


def make_structured_output(grammar: Grammar) -> "openvino_genai.StructuredOutputConfig":
    """The engine's form of a grammar, unchecked."""
    if grammar.kind == "regex":
        return openvino_genai.StructuredOutputConfig(regex=grammar.text)
    return openvino_genai.StructuredOutputConfig(json_schema=grammar.text)


class GrammarCheck:
    """Compiles grammars with the tokenizer of the pipeline that is to follow them."""

    def __init__(self, tokenizer: "openvino_genai.Tokenizer", vocabulary_size: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            openvino.save_model(_make_constant_model(vocabulary_size), str(Path(folder) / "openvino_model.xml"))
            self._pipeline = openvino_genai.LLMPipeline(folder, tokenizer, "CPU", ATTENTION_BACKEND="SDPA")
        self._prompt = openvino.Tensor(np.zeros((1, 1), dtype=np.int64))
        self._known: set[Grammar] = set()

    def check(self, grammar: Grammar) -> None:
        """Return if the engine can follow it.

        Raises:
            Refusal: it cannot; the message has the compiler's reason.

        """
        if grammar in self._known:
            return
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.structured_output_config = make_structured_output(grammar)
        try:
            self._pipeline.generate(self._prompt, config)
        except RuntimeError as error:
            # Before the reason stands where in the compiler's source it was found.
            reason = str(error).strip().splitlines()[0].partition("] ")[2].partition(": ")[2] or "unknown reason"
            raise Refusal(f"'{grammar.param}' cannot be followed: {reason}", grammar.param) from None
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known.add(grammar)


def _make_constant_model(vocabulary_size: int) -> openvino.Model:
    """A language model to which every next token is as probable as any other."""
    inputs = []
    for name, (shape, kind) in _INPUTS.items():
        node = opset13.parameter(shape, kind, name=name)
        node.output(0).get_tensor().set_names({name})
        inputs.append(node)
    width = opset13.constant(np.array([vocabulary_size], dtype=np.int64))
    shape = opset13.concat([opset13.shape_of(inputs[0], "i64"), width], 0)
    logits = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    logits.output(0).get_tensor().set_names({"logits"})
    return openvino.Model([opset13.result(logits)], inputs, "constant")
