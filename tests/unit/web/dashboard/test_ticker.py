"""What viewers of a page get, while what it shows can be read and while it cannot."""

import pytest

from backfill.errors import StoreUnavailable
from backfill.web.dashboard.ticker import Ticker


@pytest.mark.timeout(20)
@pytest.mark.parametrize("fault", [StoreUnavailable("the disk is out"), ValueError("a fault of our own")])
async def test_a_page_that_cannot_be_rendered_stays_and_goes_on_by_itself(fault: Exception) -> None:
    faults: list[Exception] = []
    rendered = 0

    async def render(_: str) -> dict[str, str]:
        nonlocal rendered
        if faults:
            raise faults.pop()
        rendered += 1
        return {"part": f"{rendered}", "other": "as ever"}

    ticker = Ticker(render, tick_s=0.001)
    ticks = ticker.follow("page")
    assert await anext(ticks) == {"part": "1", "other": "as ever"}
    faults += [fault] * 3
    while not (changed := await anext(ticks)) or faults:
        pass
    assert "other" not in changed
    assert ticker.viewers == 1
    await ticks.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
    assert ticker.viewers == 0
