"""What the tests of this room share."""

from __future__ import annotations

import pytest

from attar.stages.clock import Clock


@pytest.fixture
def time_is_soon_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a run by the clock may take, its time is up after two outer iterations."""

    def more(clock: Clock) -> bool:
        clock.is_up = len(clock.starts) == 2
        clock.starts.append(0.0)
        return not clock.is_up

    monkeypatch.setattr(Clock, "more", more)
