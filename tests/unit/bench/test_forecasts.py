"""The bench of forecasts, small: every batch is done, and what is said of it comes near the truth before it is."""

from bench.service.forecasts import Forecasted, run_batches


def test_forecasts_are_made_and_end_at_the_truth() -> None:
    found = run_batches(seed=0, share=0.1)
    assert len(found) == 20
    said = [one for one in found if one.error is not None]
    assert len(said) > 10
    for one in said:
        now_s, done_s = one.said[-1]
        assert abs(done_s - one.done_s) < 0.3 * (one.done_s - one.came_s) or one.done_s - now_s < 10


def test_the_error_is_that_of_half_time() -> None:
    one = Forecasted(came_s=100.0, done_s=200.0, said=[(110.0, 900.0), (149.0, 220.0), (151.0, 200.0)])
    assert one.error == 0.2
    assert Forecasted(came_s=100.0, done_s=200.0, said=[(160.0, 200.0)]).error is None
