"""Credit: what a peer may send for one request before somebody has read it, and budgets: for all requests together.

Both ends count the same way: a Data part costs its payload and PART_COST_BYTES. Open and Head may carry a small body
that is not counted; it is bounded by INLINE_BODY_BYTES.

Who reads decides. What has arrived and is unread is held against a `Budget`, of the stream and of the process, and what
the answers under way may still bring counts too. The more of it is taken, the smaller is the window that a request has:
a new one begins with it (Open tells the window of the answer, `Window` the one that bodies shall begin with), one under
way is given credit up to it and no further.

A reader that has read all there is and whose sender has used up its window gets a wider one, while three quarters of
the budgets are free. What it is wider counts as taken from then on: promised is held, whether it comes or not.
"""

from __future__ import annotations

from collections import deque

from serve_rt.errors import ServeException
from serve_rt.transport.limits import (
    CREDIT_STEPS,
    LEAST_WINDOW_BYTES,
    PART_COST_BYTES,
    PROCESS_BUDGET_BYTES,
    SMALL_WINDOW_BYTES,
    STREAM_BUDGET_BYTES,
    WINDOW_BYTES,
)


class PeerFault(ServeException):
    """The peer broke the rules of the stream; it is cut."""


def cost(payload: bytes) -> int:
    return len(payload) + PART_COST_BYTES


class Held:
    """Bytes that have arrived in a process and are unread. One thread has all its streams, so nothing is locked; what
    is dropped unread may be dropped by any thread, and waits in `dropped` until the streams' thread looks."""

    __slots__ = ("bytes", "dropped", "live")

    def __init__(self) -> None:
        self.bytes = 0
        self.live = 0
        """Requests whose answers have not ended."""
        self.dropped: deque[tuple[Budget, int]] = deque()

    def settle(self) -> None:
        while self.dropped:
            budget, count = self.dropped.popleft()
            budget.take(-count)


class Budget:
    """Of one stream, within that of the process."""

    __slots__ = ("_process", "held", "live")

    def __init__(self, process: Held) -> None:
        self.held = 0
        self.live = 0
        self._process = process

    def take(self, count: int) -> None:
        """`count` bytes have arrived; fewer than none: have been read, or dropped."""
        self.held += count
        self._process.bytes += count

    def began(self) -> None:
        """A request whose answer may fill a window from now on."""
        self.live += 1
        self._process.live += 1

    def ended(self) -> None:
        self.live -= 1
        self._process.live -= 1

    def window(self) -> int:
        """What a request of the stream may have unread now."""
        process = self._process
        if not process.bytes and process.live * 2 * WINDOW_BYTES <= STREAM_BUDGET_BYTES:
            return WINDOW_BYTES  # the usual: nobody waits for a reader, and there is no crowd
        process.settle()
        return min(
            window_at(max(self.held / STREAM_BUDGET_BYTES, process.bytes / PROCESS_BUDGET_BYTES)),
            window_for(self.live, self.held, STREAM_BUDGET_BYTES),
            window_for(process.live, process.bytes, PROCESS_BUDGET_BYTES),
        )

    def widen(self, count: int) -> bool:
        """Take so much for one wider window, if it is to spare."""
        process = self._process
        if _spare(self.live, self.held + count, STREAM_BUDGET_BYTES) and _spare(
            process.live, process.bytes + count, PROCESS_BUDGET_BYTES
        ):
            self.take(count)
            return True
        return False

    def dropped(self, count: int) -> None:
        """Will not be read any more; from any thread."""
        self._process.dropped.append((self, count))


def window_at(taken: float) -> int:
    """The window when this share of the tighter budget is taken."""
    if taken < 0.5:
        return WINDOW_BYTES
    return SMALL_WINDOW_BYTES if taken < 0.75 else LEAST_WINDOW_BYTES


def window_for(live: int, held: int, budget: int) -> int:
    """The window of one of `live` requests, so that all together cannot fill more than the budget, were they to fill
    theirs at once: each size has half of it. (Of those that have a size, take the one that got it last: then all others
    that have it were live, or unread and held, and were counted. So they fit in that half.) The least is not counted.

    >>> window_for(2, 0, 1 << 20) == WINDOW_BYTES, window_for(3, 0, 1 << 20) == SMALL_WINDOW_BYTES
    (True, True)
    """
    if not live:  # a replica: how many bodies may come is its slots' to say
        return WINDOW_BYTES
    for window in (WINDOW_BYTES, SMALL_WINDOW_BYTES):
        if 2 * (held + live * window) <= budget:
            return window
    return LEAST_WINDOW_BYTES


def _spare(live: int, held: int, budget: int) -> bool:
    """Whether a quarter of the budget has room for what is held and for a window of each; so a wider window takes
    nothing from the half that `window_for` gives out."""
    return 4 * (held + live * WINDOW_BYTES) <= budget


class Inflow:
    """The reading side of one request's window, which may become as wide as `widest`.

    *Resources*: what is still unread when it is dropped is given back to the budget: whoever may still read keeps it.
    """

    __slots__ = ("_budget", "_widened", "_widest", "allowed", "held")

    def __init__(self, budget: Budget, window: int, widest: int) -> None:
        self.allowed = window
        """What the peer may still send."""
        self.held = 0
        """Arrived, not yet read."""
        self._budget = budget
        self._widest = widest
        self._widened = 0
        """By so much the window is wider than the usual one."""

    def arrived(self, payload: bytes, request_id: int) -> None:
        """*Errors*: PeerFault when the peer sent more than it may."""
        size = len(payload) + PART_COST_BYTES
        self.allowed -= size
        if self.allowed < 0:
            raise PeerFault(f"request {request_id}: {-self.allowed} bytes over its window")
        self.held += size
        self._budget.take(size)

    def read(self, payload: bytes) -> int:
        """Count a part as read; return the credit to give now, 0 for none."""
        size = len(payload) + PART_COST_BYTES
        self.held -= size
        self._budget.take(-size)
        window = self._budget.window()
        if self._widened:
            window = self._wide(window)
        elif self.allowed * CREDIT_STEPS < window == WINDOW_BYTES and not self.held:
            window = self._widen()
        # Up to the window of now, which may be another than it began with. When all is read and less than a quarter is
        # missing, the peer has three quarters, which is more than any piece: nobody waits for credit that never comes.
        given = window - self.allowed - self.held
        if given * CREDIT_STEPS < window:
            return 0
        self.allowed += given
        return given

    def _widen(self) -> int:
        """All is read and the sender can hardly go on: each waits for the other, in turns."""
        wider = self._widest - WINDOW_BYTES
        if not self._budget.widen(wider):
            return WINDOW_BYTES
        self._widened = wider
        return self._widest

    def _wide(self, window: int) -> int:
        """The window when the others have `window`; when they are short, it is wide no longer."""
        if window == WINDOW_BYTES:
            return self._widest
        if self.allowed + self.held <= WINDOW_BYTES:
            self._budget.take(-self._widened)
            self._widened = 0
        return window

    def __del__(self) -> None:
        if self.held or self._widened:
            self._budget.dropped(self.held + self._widened)


PROCESS = Held()
"""Of this process."""
