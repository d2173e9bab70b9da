"""Whether a sealed file may become a batch: judged from the file's survey, never from its lines. Pure."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec

from backfill.batch import ENDPOINTS, BatchProblem, Dialect
from backfill.errors import InvalidInput
from backfill.index import OTHER_TARGET, EndpointSurvey, LineKind, Survey
from backfill.wire import find_endpoint, find_request_problem, find_target_problem, quote

__all__ = ["PROBLEMS_SHOWN", "Verdict", "check_endpoint", "judge"]

PROBLEMS_SHOWN = 20
_NOTHING = EndpointSurvey()


class Verdict(NamedTuple):
    """What becomes of a batch of these lines."""

    fails: bool
    """Whether nothing is run: for a fault of the file, or since no request is left."""
    of_file: EndpointSurvey
    """What makes the file unusable as a whole."""
    of_requests: EndpointSurvey
    """What keeps single requests from being sent. If the batch runs, each is a line of its error file."""

    @property
    def reasons(self) -> EndpointSurvey:
        """All that is wrong, in line order: whoever mends the file wants to know both kinds."""
        return _merge(self.of_file, self.of_requests)


def judge(
    survey: Survey,
    endpoint: str,
    model_id: str | None,
    dialect: Dialect = Dialect.TOGETHER,
    problems_shown: int = PROBLEMS_SHOWN,
    *,
    skips_invalid_lines: bool = False,
) -> Verdict:
    """What keeps these lines from `endpoint`, `problems_shown` of each kind.

    With `skips_invalid_lines` a line that is no request keeps nobody but itself from being sent.
    """
    of_file, of_lines = _split(survey)
    names_target = dialect is Dialect.OPENAI
    if names_target:
        of_lines = _merge(of_lines, _judge_targets(survey, endpoint, only_known=skips_invalid_lines))
    if skips_invalid_lines:
        of_requests = _merge(of_lines, _judge_requests(survey, endpoint, model_id, names_target=names_target))
    else:
        of_file = _merge(of_file, of_lines)
        of_requests = _judge_requests(survey, endpoint, model_id)
    fails = of_file.problem_count > 0 or of_requests.problem_count >= survey.lines
    return Verdict(fails, _cut(of_file, problems_shown), _cut(of_requests, problems_shown))


def check_endpoint(path: str, listed: Collection[str] = ()) -> str:
    """The endpoint that is meant, if batches can be made for it; raises InvalidInput.

    `listed` are those that the settings name for an engine, whether or not they are known.
    """
    endpoint = find_endpoint(path, listed)
    if endpoint is None:
        known = ", ".join(sorted({*ENDPOINTS, *listed}))
        message = f"endpoint must be one of {known}; got {quote(path)}."
        raise InvalidInput(message, param="endpoint", code="invalid_endpoint")
    return endpoint


def _split(survey: Survey) -> tuple[EndpointSurvey, EndpointSurvey]:
    """What is wrong with the file as a whole, of which there is little, and with single lines."""
    of_file = tuple(problem for problem in survey.problems if problem.line is None)
    of_lines = tuple(problem for problem in survey.problems if problem.line is not None)
    return EndpointSurvey(of_file, len(of_file)), EndpointSurvey(of_lines, survey.problem_count - len(of_file))


def _judge_targets(survey: Survey, endpoint: str, *, only_known: bool) -> EndpointSurvey:
    """Which lines say themselves that they are for another endpoint.

    `only_known`: without those of which the survey does not know what they say; they are looked at when they run.
    """
    if not survey.kinds:
        return survey.targets.get(endpoint, _NOTHING)
    kinds = [kind for kind in survey.kinds if not only_known or (kind.method, kind.url) != OTHER_TARGET]
    return _judge_kinds(kinds, lambda kind: find_target_problem((kind.method, kind.url), endpoint))


def _judge_requests(
    survey: Survey, endpoint: str, model_id: str | None, *, names_target: bool = False
) -> EndpointSurvey:
    """Which requests are not sent to the endpoint; with `names_target` of those that say they are for it."""
    if not survey.kinds:
        of_requests = survey.endpoints.get(endpoint, _NOTHING)
        return of_requests if model_id else _merge(of_requests, survey.without_model.get(endpoint, _NOTHING))
    kinds = [
        kind
        for kind in survey.kinds
        if not names_target or find_target_problem((kind.method, kind.url), endpoint) is None
    ]
    found = _judge_kinds(
        kinds,
        lambda kind: find_request_problem(kind.shape, endpoint, has_model=kind.has_model or model_id is not None),
    )
    own = {problem.line: problem for problem in survey.own_problems}
    return EndpointSurvey(tuple(own.get(each.line, each) for each in found.problems), found.problem_count)


def _judge_kinds(
    kinds: Collection[LineKind], find_problem: Callable[[LineKind], BatchProblem | None]
) -> EndpointSurvey:
    """What is found of each kind holds for its lines, however many they are."""
    count = 0
    problems: list[BatchProblem] = []
    for kind in kinds:
        problem = find_problem(kind)
        if problem is not None:
            count += kind.count
            problems += [msgspec.structs.replace(problem, line=line) for line in kind.first]
    problems.sort(key=lambda problem: problem.line or 0)
    return EndpointSurvey(tuple(problems), count)


def _merge(one: EndpointSurvey, other: EndpointSurvey) -> EndpointSurvey:
    problems = sorted(one.problems + other.problems, key=lambda problem: problem.line or 0)
    return EndpointSurvey(tuple(problems), one.problem_count + other.problem_count)


def _cut(survey: EndpointSurvey, problems_shown: int) -> EndpointSurvey:
    return EndpointSurvey(survey.problems[:problems_shown], survey.problem_count)
