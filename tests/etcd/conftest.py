"""Fixtures of the etcd tests: coroutine tests run in a loop of their own, and stores to run them on."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from serve_rt.aio import ManualClock
from serve_rt.etcd import EtcdClient, EtcdStore
from serve_rt.testing.fake_etcd import FakeEtcd
from tests.etcd.etcd_server import EtcdServer

StoreMaker = Callable[[], AbstractAsyncContextManager[EtcdStore]]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def shared_etcd() -> Iterator[EtcdServer]:
    """One etcd for all tests that do it no harm; each begins with an empty store."""
    server = EtcdServer()
    try:
        asyncio.run(server.start())
        yield server
    finally:
        server.close()


@pytest.fixture
def own_etcd() -> Iterator[EtcdServer]:
    """An etcd to be hurt; the test starts it."""
    server = EtcdServer()
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def real_store(endpoint: str) -> AsyncGenerator[EtcdStore, None]:
    client = EtcdClient([endpoint], timeout_s=10.0, page_keys=3)
    try:
        await client.delete("", prefix=True)
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def fake_store() -> AsyncGenerator[EtcdStore, None]:
    fake = FakeEtcd(clock=ManualClock())
    try:
        yield fake
    finally:
        await fake.close()


@pytest.fixture(params=["fake", "real"])
def make_store(request: pytest.FixtureRequest) -> StoreMaker:
    """Both stores in turn: what a test asks of one it asks of the other."""
    if request.param == "fake":
        return fake_store
    server: EtcdServer = request.getfixturevalue("shared_etcd")
    return lambda: real_store(server.endpoint)
