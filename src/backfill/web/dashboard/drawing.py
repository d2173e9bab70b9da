"""Drawings as SVG: sizes in the units of their view box, colours by the classes of the style sheet. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

__all__ = ["Moment", "draw_bar", "draw_columns", "draw_line", "draw_progress"]

_WIDTH, _HEIGHT = 240, 48
_CHART_WIDTH, _CHART_HEIGHT = 640, 160
_MARGIN = 8


class Moment(NamedTuple):
    """How far a batch was at some time."""

    at_ms: int
    done: int


def draw_bar(done: int, failed: int, total: int) -> Markup:
    """A batch's lines: answered, failed and left, as shares of the width."""
    whole = max(1, total)
    answered_percent, failed_percent = 100 * max(0, done - failed) / whole, 100 * failed / whole
    label = f"{done:,} of {total:,} done, {failed:,} failed"
    return Markup(
        '<svg class="bar" role="img" aria-label="{label}" preserveAspectRatio="none" viewBox="0 0 100 1">'
        '<rect class="left" width="100" height="1"></rect>'
        '<rect class="done" width="{answered:.3f}" height="1"></rect>'
        '<rect class="failed" x="{answered:.3f}" width="{failed:.3f}" height="1"></rect></svg>'
    ).format(label=label, answered=answered_percent, failed=failed_percent)


def draw_line(values: Sequence[float], label: str) -> Markup:
    """Values over time, oldest first, as one line with the ground filled; the largest touches the top."""
    top = max(values, default=0.0)
    if len(values) < 2 or top <= 0:
        return Markup(
            '<svg class="line" role="img" aria-label="{label}: nothing yet" viewBox="0 0 {w} {h}"></svg>'
        ).format(label=label, w=_WIDTH, h=_HEIGHT)
    step = _WIDTH / (len(values) - 1)
    points = " ".join(
        f"{place * step:.1f},{_HEIGHT - 2 - value / top * (_HEIGHT - 4):.1f}" for place, value in enumerate(values)
    )
    return Markup(
        '<svg class="line" role="img" aria-label="{label}" preserveAspectRatio="none" viewBox="0 0 {w} {h}">'
        '<polygon class="ground" points="0,{h} {points} {w},{h}"></polygon>'
        '<polyline class="stroke" points="{points}"></polyline></svg>'
    ).format(label=label, points=points, w=_WIDTH, h=_HEIGHT)


def draw_columns(values: Sequence[float], label: str) -> Markup:
    """Values over time, oldest first, as columns side by side."""
    top = max(values, default=0.0) or 1.0
    step = _CHART_WIDTH / max(1, len(values))
    columns = [
        f'<rect class="column" x="{place * step:.1f}" y="{_CHART_HEIGHT - value / top * (_CHART_HEIGHT - _MARGIN):.1f}"'
        f' width="{max(1.0, step - 1):.1f}" height="{value / top * (_CHART_HEIGHT - _MARGIN):.1f}"></rect>'
        for place, value in enumerate(values)
        if value > 0
    ]
    return _frame_chart(columns, label)


def draw_progress(
    moments: Sequence[Moment], total: int, deadline_at_ms: int, forecast_at_ms: tuple[int, int] | None, label: str
) -> Markup:
    """Lines done over time, the forecast as a wedge from the last moment to all of them, and the deadline as a line."""
    start_ms = moments[0].at_ms if moments else deadline_at_ms - 1
    last = moments[-1] if moments else Moment(start_ms, 0)
    ends_ms = [last.at_ms, *(forecast_at_ms or ())]
    # A deadline that is far away would squeeze the rest into a corner.
    is_near = deadline_at_ms - start_ms <= 3 * max(1, max(ends_ms) - start_ms)
    span_ms = max(1, max([*ends_ms, *([deadline_at_ms] if is_near else [])]) - start_ms)

    def place(at_ms: int, done: int) -> str:
        x = (at_ms - start_ms) / span_ms * (_CHART_WIDTH - 2)
        y = _CHART_HEIGHT - 1 - done / max(1, total) * (_CHART_HEIGHT - _MARGIN)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<polyline class="stroke" points="{" ".join(place(*moment) for moment in moments)}"></polyline>']
    if forecast_at_ms is not None:
        wedge = " ".join((place(*last), place(forecast_at_ms[0], total), place(forecast_at_ms[1], total)))
        parts.append(f'<polygon class="forecast" points="{wedge}"></polygon>')
    if is_near:
        x = place(deadline_at_ms, 0).partition(",")[0]
        parts.append(f'<line class="deadline" x1="{x}" x2="{x}" y1="0" y2="{_CHART_HEIGHT}"></line>')
    return _frame_chart(parts, label)


def _frame_chart(parts: Sequence[str], label: str) -> Markup:
    """`parts` are made of numbers alone."""
    return Markup(
        '<svg class="chart" role="img" aria-label="{label}" preserveAspectRatio="none" viewBox="0 0 {w} {h}">'
        "{parts}</svg>"
    ).format(label=label, w=_CHART_WIDTH, h=_CHART_HEIGHT, parts=Markup("".join(parts)))  # noqa: S704
