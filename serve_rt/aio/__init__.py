"""What every asyncio part here shares: a clock that tests can turn, back-off, and owned, named tasks."""

from serve_rt.aio.backoff import Backoff
from serve_rt.aio.clock import Clock, ManualClock, SystemClock
from serve_rt.aio.tasks import TaskOwner, cancel_and_wait

__all__ = ["Backoff", "Clock", "ManualClock", "SystemClock", "TaskOwner", "cancel_and_wait"]
