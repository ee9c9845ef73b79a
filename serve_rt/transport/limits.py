"""Every bound of the stream in one place: what may be in flight, how large a piece is, how long a silence."""

from __future__ import annotations

PROTOCOL = 1

WINDOW_BYTES = 256 << 10
"""Per request and direction: what may be under way and unread, while there is room …"""
SMALL_WINDOW_BYTES = 64 << 10
"""… when half of a budget is taken …"""
LEAST_WINDOW_BYTES = 32 << 10
"""… and from three quarters on; never less, so that everybody who is read goes on."""
WIDE_ANSWER_BYTES = 512 << 10
"""The window of an answer whose reader waits for its sender, while the budgets are mostly free: one window alone is a
piece that is under way, and the two sides take turns. With what kernel and proxy hold for a client, 1 MiB in all …"""
WIDE_BODY_BYTES = 1 << 20
"""… and of a body."""
STREAM_BUDGET_BYTES = 64 << 20
"""What may have arrived on one stream and be unread …"""
PROCESS_BUDGET_BYTES = 512 << 20
"""… and on all streams of a process."""
PART_COST_BYTES = 64
"""What a Data part costs beside its payload, so that empty parts cannot fill a memory for free."""
CREDIT_STEPS = 4
"""Credit is returned in quarters of the window."""

FRAME_BYTES = 512 << 10
PIECE_BYTES = 256 << 10
"""Of one request in one frame, when it is alone …"""
SHARED_PIECE_BYTES = 64 << 10
"""… and when others wait."""
LARGE_PART_BYTES = 16 << 10
"""A Data from here on is laid out, and read, by hand: copies cost more than the steps that save them."""
INLINE_BODY_BYTES = 64 << 10
"""What may ride in an Open or Head; the rest follows as Data."""
SMALLEST_SPLIT_BYTES = 16 << 10
"""A large payload waits for this much credit rather than crumble."""
HELLO_BYTES = 4 << 10
"""A first frame larger than this is no Hello: refused unparsed."""
IN_FLIGHT = 65_536
"""Requests of one stream, before a slot is even asked for."""

UNREAD_PARTS = 2_000
"""Heads, Pongs, Rejecteds that wait for a caller who sends and does not read: fewer are never looked at …"""
UNREAD_PARTS_BYTES = 64 << 20
"""… of more, so many bytes in all …"""
MOST_UNREAD_PARTS = 200_000
"""… and so many parts. Beyond it the caller is cut."""

HELLO_TIMEOUT_S = 3.0
ACCEPTED_DELAY_S = 0.01
"""An Accepted waits this long for a Head to ride in its place."""
LOAD_INTERVAL_S = 0.02
GRANT_TIMEOUT_S = 0.05
SILENCE_S = 2.0
"""Requests in flight and no part for so long: Ping. The same again without an answer: the replica is ejected."""

GIL_SWITCH_S = 0.0005
"""The interpreter's switch interval in proxy and replica. gRPC tells of a finished write from a thread of its own, and
with Python's 5 ms that thread waits until a whole burst is worked off: caller, proxy and replica then take turns
instead of working side by side (measured on 2 cores: a sixth more requests at 32 connections, a third more at 128)."""
