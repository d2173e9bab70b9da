"""Where results of a command go unless the user says otherwise."""

from pathlib import Path

__all__ = ["name_errors_file"]


def name_errors_file(output: Path) -> Path:
    """Where errors go unless the user says otherwise: answers.jsonl -> answers.errors.jsonl."""
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.errors.jsonl")
