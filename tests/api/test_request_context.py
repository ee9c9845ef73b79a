"""`serve.cancelled()`: in a request, in a thread with its context, in a batch, and outside of all."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from threading import Thread

import serve_rt as serve
from serve_rt.context import RequestContext, current_request


def test_nobody_can_cancel_what_is_no_request() -> None:
    assert not serve.cancelled()


def test_a_thread_with_the_request_s_context_sees_it_end() -> None:
    seen: list[bool] = []

    def handler() -> None:
        current_request.set(context)
        copied = copy_context()
        for _ in range(2):
            thread = Thread(target=lambda: seen.append(copied.run(serve.cancelled)))
            thread.start()
            thread.join()
            context.cancelled.set()

    context = RequestContext("r1")
    copy_context().run(handler)
    assert seen == [False, True]


def test_a_batch_is_cancelled_when_nobody_waits_for_it() -> None:
    contexts = [RequestContext(str(number)) for number in range(2)]
    seen: list[bool] = []

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=1.0)
    async def work(items: list[int]) -> list[int]:
        seen.append(serve.cancelled())
        for context in contexts:
            context.cancelled.set()
            seen.append(serve.cancelled())
        return items

    async def ask(number: int) -> int:
        current_request.set(contexts[number])
        answer: int = await work(number)
        return answer

    async def main() -> list[int]:
        return await asyncio.gather(*(asyncio.create_task(ask(number)) for number in range(2)))

    assert asyncio.run(main()) == [0, 1]
    assert seen == [False, False, True]
