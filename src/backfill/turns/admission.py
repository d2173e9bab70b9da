"""Whether a sealed file may become a batch: judged from the file's survey, never from its lines. Pure."""

import re

from backfill.batch import ENDPOINTS, BatchProblem, Dialect
from backfill.errors import InvalidInput
from backfill.index import EndpointSurvey, Survey

__all__ = ["PROBLEMS_SHOWN", "check_endpoint", "judge", "parse_window"]

PROBLEMS_SHOWN = 20
_WINDOW = re.compile(r"([1-9]\d{0,3})([mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}


def judge(
    survey: Survey,
    endpoint: str,
    model_id: str | None,
    dialect: Dialect = Dialect.TOGETHER,
    problems_shown: int = PROBLEMS_SHOWN,
) -> tuple[tuple[BatchProblem, ...], int]:
    """The first reasons why these lines cannot go to `endpoint`, in line order, and how many there are in all."""
    surveys = [survey.endpoints.get(endpoint, EndpointSurvey())]
    if dialect is Dialect.OPENAI:
        surveys.append(survey.targets.get(endpoint, EndpointSurvey()))
    problems = [*survey.problems, *(problem for each in surveys for problem in each.problems)]
    count = survey.problem_count + sum(each.problem_count for each in surveys)
    if model_id is None and survey.lines_without_model:
        message = (
            f"body.model is missing (in {survey.lines_without_model} of {survey.lines} requests), "
            "and the batch was created without a model_id to fall back on."
        )
        problems.append(BatchProblem("missing_model", message, line=survey.first_without_model, param="body.model"))
        count += 1
    problems.sort(key=lambda problem: problem.line or 0)
    return tuple(problems[:problems_shown]), count


def check_endpoint(endpoint: str) -> str:
    """The endpoint, if batches can be made for it; raises InvalidInput."""
    if endpoint not in ENDPOINTS:
        message = f"endpoint must be one of {', '.join(ENDPOINTS)}; got {endpoint!r}."
        raise InvalidInput(message, param="endpoint", code="invalid_endpoint")
    return endpoint


def parse_window(window: str) -> int:
    """A completion window such as "24h", "30m" or "2d" in milliseconds; raises InvalidInput."""
    match = _WINDOW.fullmatch(window)
    if match is None:
        message = f'completion_window must be a number and m, h or d, such as "24h"; got {window!r}.'
        raise InvalidInput(message, param="completion_window")
    return int(match[1]) * _UNIT_S[match[2]] * 1000
