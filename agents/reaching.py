"""The first word with an etcd that was given: is it there, and is it new enough?

Called once by `agent` before it registers. The endpoints are named in the error, because a wrong `--etcd` is the usual
reason.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from serve_rt.aio import Backoff
from serve_rt.config.waits import wait_s
from serve_rt.errors import EtcdUnavailableError
from serve_rt.etcd import EtcdStore, EtcdTls, judge_version
from serve_rt.model.starts import EtcdAddress

log = logging.getLogger(__name__)
REACHED_WITHIN_S = 10.0


async def first_contact(store: EtcdStore, address: EtcdAddress) -> None:
    """*Errors*: EtcdUnavailableError naming the endpoints after REACHED_WITHIN_S; EtcdTooOldError."""
    backoff, reason, limit_s = Backoff(0.1, 1.0), "no answer", wait_s("first_contact_s", REACHED_WITHIN_S)
    try:
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    status = await store.status()
                    break
                except EtcdUnavailableError as error:
                    reason = str(error)
                await asyncio.sleep(backoff.next_s())
    except TimeoutError as error:
        raise EtcdUnavailableError(
            f"etcd at {', '.join(address.endpoints)} did not answer within {limit_s:g} s ({reason}): "
            "check --etcd, or leave it out to run an embedded one"
        ) from error
    warning = judge_version(status.version)
    if warning:
        log.warning("%s", warning, extra={"action": "etcd_version"})


def tls_of(address: EtcdAddress) -> EtcdTls | None:
    if not address.ca:
        return None
    return EtcdTls(
        ca=Path(address.ca),
        cert=Path(address.cert) if address.cert else None,
        key=Path(address.key) if address.key else None,
    )
