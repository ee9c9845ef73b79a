"""A real etcd behind mutual TLS, and one that asks for passwords."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_rt.errors import ConfigError, EtcdError, EtcdUnavailableError
from serve_rt.etcd import EtcdClient, EtcdTls, Events, Snapshot
from serve_rt.etcd.embedded import find_etcd, wait_ready
from tests.etcd.etcd_server import EtcdServer


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_key(folder: Path, name: str) -> None:
    openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")


def make_ca(folder: Path, name: str) -> None:
    make_key(folder, name)
    openssl(
        folder,
        "req",
        "-x509",
        "-new",
        "-key",
        f"{name}.key",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-out",
        f"{name}.pem",
    )


def make_certificate(folder: Path, name: str, ca: str, usage: str) -> None:
    make_key(folder, name)
    openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
    (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:etcd.test,IP:127.0.0.1\nextendedKeyUsage={usage}\n")
    signing = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")


@dataclass(frozen=True)
class TlsEtcd:
    endpoint: str
    folder: Path

    def tls(self, *, ca: str = "ca", who: str = "client", server_name: str = "") -> EtcdTls:
        return EtcdTls(self.folder / f"{ca}.pem", self.folder / f"{who}.pem", self.folder / f"{who}.key", server_name)


@pytest.fixture(scope="module")
def tls_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsEtcd]:
    folder = tmp_path_factory.mktemp("tls")
    for ca in ("ca", "stranger-ca"):
        make_ca(folder, ca)
    make_certificate(folder, "server", "ca", "serverAuth,clientAuth")
    make_certificate(folder, "client", "ca", "clientAuth")
    make_certificate(folder, "stranger", "stranger-ca", "clientAuth")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = {
        "listen-client-urls": f"https://{address}",
        "advertise-client-urls": f"https://{address}",
        "cert-file": str(folder / "server.pem"),
        "key-file": str(folder / "server.key"),
        "trusted-ca-file": str(folder / "ca.pem"),
        "client-cert-auth": "true",
    }
    server = EtcdServer(extra=tuple(f"--{name}={value}" for name, value in flags.items()))
    etcd = TlsEtcd(address, folder)
    try:
        server.spawn()
        asyncio.run(wait_ready(address, 20, tls=etcd.tls()))
        yield etcd
    finally:
        server.close()


async def test_mutual_tls_serves_calls_and_watches(tls_etcd: TlsEtcd) -> None:
    client = EtcdClient([tls_etcd.endpoint], tls=tls_etcd.tls())
    try:
        async with aclosing(client.watch("/tls")) as changes:
            await anext(changes)
            await client.put("/tls", b"1")
            change = await anext(changes)
        assert isinstance(change, Events)
        assert change.events[0].kv.value == b"1"
    finally:
        await client.close()


async def test_a_server_name_stands_in_for_the_address(tls_etcd: TlsEtcd) -> None:
    for name, served in (("etcd.test", True), ("other.test", False)):
        client = EtcdClient([tls_etcd.endpoint], tls=tls_etcd.tls(server_name=name), timeout_s=1.5)
        try:
            if served:
                await client.get("/a")
            else:
                with pytest.raises(EtcdUnavailableError):
                    await client.get("/a")
        finally:
            await client.close()


@pytest.mark.parametrize("wrong", ["no certificate", "a stranger's certificate", "a stranger's CA", "no TLS"])
async def test_whoever_cannot_prove_himself_is_not_served(tls_etcd: TlsEtcd, wrong: str) -> None:
    choices: dict[str, EtcdTls | None] = {
        "no certificate": EtcdTls(tls_etcd.folder / "ca.pem"),
        "a stranger's certificate": tls_etcd.tls(who="stranger"),
        "a stranger's CA": tls_etcd.tls(ca="stranger-ca"),
        "no TLS": None,
    }
    client = EtcdClient([tls_etcd.endpoint], tls=choices[wrong], timeout_s=1.0)
    try:
        with pytest.raises(EtcdUnavailableError):
            await client.get("/a")
    finally:
        await client.close()


def test_a_certificate_without_its_key_is_refused_when_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--etcd-key"):
        EtcdTls(tmp_path / "ca.pem", cert=tmp_path / "client.pem")
    with pytest.raises(ConfigError, match="No such file"):
        EtcdTls(tmp_path / "none.pem").credentials()


# --- passwords --------------------------------------------------------------------------------------------------------


def etcdctl(server: EtcdServer, *arguments: str) -> None:
    """The tool that comes with the server: users are an administrator's business, our client has no calls for it."""
    tool = find_etcd().path.with_name("etcdctl")
    command = [str(tool), "--endpoints=unix://localhost:7301", *arguments]
    subprocess.run(command, cwd=server.dir, check=True, capture_output=True, timeout=20)


@pytest.fixture
def password_etcd(own_etcd: EtcdServer) -> EtcdServer:
    asyncio.run(own_etcd.start())
    etcdctl(own_etcd, "user", "add", "root:secret")
    etcdctl(own_etcd, "user", "grant-role", "root", "root")
    etcdctl(own_etcd, "role", "add", "narrow")
    etcdctl(own_etcd, "role", "grant-permission", "narrow", "--prefix=true", "readwrite", "/mine/")
    etcdctl(own_etcd, "user", "add", "narrow:secret")
    etcdctl(own_etcd, "user", "grant-role", "narrow", "narrow")
    etcdctl(own_etcd, "auth", "enable")
    return own_etcd


async def test_a_token_that_died_with_the_server_is_renewed(password_etcd: EtcdServer) -> None:
    client = EtcdClient([password_etcd.endpoint], user="root", password="secret", timeout_s=10.0)
    try:
        async with aclosing(client.watch("/")) as changes:
            assert isinstance(await anext(changes), Snapshot)
            for value in (b"1", b"2"):
                await client.put("/a", value)
                async with asyncio.timeout(15):
                    change = await anext(changes)
                assert isinstance(change, Events)
                assert [event.kv.value for event in change.events] == [value]
                password_etcd.kill()
                password_etcd.spawn()
        assert await client.get("/a") is not None
    finally:
        await client.close()


async def test_what_is_not_allowed_is_refused_and_not_retried_for_ever(password_etcd: EtcdServer) -> None:
    narrow = EtcdClient([password_etcd.endpoint], user="narrow", password="secret")
    wrong = EtcdClient([password_etcd.endpoint], user="root", password="guess")
    anonymous = EtcdClient([password_etcd.endpoint])
    try:
        assert await narrow.put("/mine/a", b"")
        async with asyncio.timeout(3):
            for call in (narrow.put("/a", b""), wrong.get("/a"), anonymous.get("/a"), anext(narrow.watch("/"))):
                with pytest.raises(EtcdError) as caught:
                    await call
                assert not isinstance(caught.value, EtcdUnavailableError)
    finally:
        for client in (narrow, wrong, anonymous):
            await client.close()
