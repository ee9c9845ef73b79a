"""User errors told in users' words: tracebacks without our frames.

Used for constructors (the FAILED report), for answers and for the log. Our own bugs keep their full traceback.
"""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from serve_rt.ray_names import advise

_OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
MAX_TRACEBACK_CHARS = 8192
"""A FAILED report is kept in etcd; the end of a traceback says more than its middle."""


def cut_own_frames(error: BaseException) -> BaseException:
    """The same error, its traceback starting at the first frame that is not this package's."""
    advise(error)
    return error.with_traceback(_first_foreign(error.__traceback__))


def _first_foreign(tb: TracebackType | None) -> TracebackType | None:
    frame = tb
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER):
        frame = frame.tb_next
    return frame if frame is not None else tb


def users_traceback(error: BaseException) -> str:
    """What `python` would have printed had the user's code run alone, shortened in the middle."""
    text = "".join(traceback.format_exception(cut_own_frames(error)))
    if len(text) <= MAX_TRACEBACK_CHARS:
        return text
    head_chars = MAX_TRACEBACK_CHARS // 4
    left_out = len(text) - MAX_TRACEBACK_CHARS
    return f"{text[:head_chars]}\n… {left_out} characters left out …\n{text[head_chars + left_out :]}"


def sentence(error: BaseException) -> str:
    """`ValueError: message`, as the last line of a traceback."""
    return traceback.format_exception_only(error)[-1].strip()
