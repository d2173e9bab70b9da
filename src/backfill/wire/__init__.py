"""The shapes that the outside sees: dialects, lines, errors. Pure: parse and render, no I/O."""

from backfill.wire.lines import ParsedLine, find_shape_problem, find_target_problem, parse_line

__all__ = ["ParsedLine", "find_shape_problem", "find_target_problem", "parse_line"]
