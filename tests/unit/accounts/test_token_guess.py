"""What a batch is taken to need: from bytes and max_tokens, and from what engines reported before."""

from backfill.accounts import find_per_mille
from backfill.batch import AUDIO_ENDPOINTS, Price, Reservation, Usage, UsageRow, fit_to_endpoint
from backfill.index import NEEDS_KEPT, OTHER_MODELS
from backfill.intake import LineScanner
from backfill.store import EndedUsage
from backfill.wire.estimates import render_estimate
from tests.support.lines import request_line


def survey_of(*lines: bytes) -> dict[str, Reservation]:
    scanner = LineScanner(lines_limit=1000, custom_id_length=64)
    scanner.feed(b"\n".join(lines))
    return dict(scanner.finish()[1].needs)


def test_each_model_needs_its_own_lines() -> None:
    needs = survey_of(
        request_line(0, model="a", max_tokens=10),
        request_line(1, model="b", max_completion_tokens=20),
        request_line(2, model="a", max_output_tokens=30),
        request_line(3, model=None),
    )
    assert {name: (need.lines, need.completion_tokens) for name, need in needs.items()} == {
        "": (1, 256),
        "a": (2, 40),
        "b": (1, 20),
    }
    assert all(need.prompt_tokens > 0 for need in needs.values())


def test_one_model_is_summed_at_once_to_the_same() -> None:
    lines = [request_line(number, model="a", max_tokens=number) for number in range(50)]
    alone, beside = survey_of(*lines), survey_of(*lines, request_line(50, model="b"))
    assert alone["a"] == beside["a"]


def test_of_very_many_models_those_that_need_the_most_are_told_apart() -> None:
    lines = [request_line(n, model=f"m{n}", max_tokens=1000 if n >= 150 else 1) for n in range(200)]
    needs = survey_of(*lines)
    assert len(needs) == NEEDS_KEPT + 1
    assert {f"m{number}" for number in range(150, 200)} <= needs.keys()
    assert needs[OTHER_MODELS].lines == 100
    assert sum(need.lines for need in needs.values()) == 200


def ended(guessed: int, counted: int, *, lines: int = 100, per_mille: int = 1000, answered: int = 100) -> EndedUsage:
    row = UsageRow("m", 0, answered=answered, usage=Usage(counted, 1, 0))
    return EndedUsage({"m": Reservation(lines, guessed, 0, per_mille)}, [row])


def test_the_guess_is_corrected_by_what_engines_counted() -> None:
    assert find_per_mille([ended(1000, 1250)]) == {"m": 1250}
    assert find_per_mille([ended(1000, 1250), ended(3000, 2750)]) == {"m": 1000}


def test_a_correction_does_not_correct_itself_again() -> None:
    assert find_per_mille([ended(1250, 1250, per_mille=1250)]) == {"m": 1250}


def test_lines_without_an_answer_say_nothing() -> None:
    assert find_per_mille([ended(1000, 500, answered=50)]) == {"m": 1000}
    assert find_per_mille([ended(1000, 0)]) == {}


def test_a_few_lines_say_nothing_and_no_report_leads_far_astray() -> None:
    assert find_per_mille([ended(100, 300, lines=10, answered=10)]) == {}
    assert find_per_mille([ended(1000, 900_000)]) == {"m": 5000}


def test_a_clip_is_a_minute_until_clips_were_heard() -> None:
    need = Reservation(100, 3000, 25_600)
    for endpoint in AUDIO_ENDPOINTS:
        assert fit_to_endpoint(need, endpoint) == Reservation(100, 100 * 60 * 25, 0)
    assert fit_to_endpoint(need, "/v1/rerank") == Reservation(100, 3000, 0)
    for endpoint in ("/v1/chat/completions", "/v1/messages", "/v1/anything"):
        assert fit_to_endpoint(need, endpoint) == need
    # Half a minute each, and llama.cpp counts tokens beside.
    heard = UsageRow("m", 0, answered=100, usage=Usage(900, 400, 0, 100 * 30_000))
    guessed = {"m": fit_to_endpoint(need, AUDIO_ENDPOINTS[0])}
    assert find_per_mille([EndedUsage(guessed, [heard])]) == {"m": 500}


def test_clips_cost_by_the_minute_before_they_are_heard() -> None:
    price = Price(audio_per_minute=600_000_000, discount_percent=50)
    need = fit_to_endpoint(Reservation(10, 30, 2560), AUDIO_ENDPOINTS[0])
    told = render_estimate({"m": need}, {"m": price}, AUDIO_ENDPOINTS[0])
    assert (told["list_price"], told["batch_price"]) == ("6.00", "3.00")
    # Chats have no price at such a model, and that is not 0.
    assert render_estimate({"m": Reservation(10, 30, 0)}, {"m": Price()}, "/v1/chat/completions")["list_price"] is None
