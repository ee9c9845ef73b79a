"""What clients are told of failures that are not theirs."""

from __future__ import annotations

from serve_rt.errors import DeploymentUnavailableError
from serve_rt.proxy.answers import answer_for

FAILED = "It failed to start 2 times in a row. Error:\nTraceback (most recent call last):\n  File x\nOSError: /m"


def test_clients_get_no_traceback_of_a_constructor() -> None:
    answer = answer_for(DeploymentUnavailableError("d", FAILED), "r", None)
    assert (answer.status, answer.body) == (503, "It failed to start 2 times in a row. See `serve status`.")
    plain = answer_for(DeploymentUnavailableError("d", "it is being deleted"), "r", None)
    assert plain.body == "it is being deleted"
