"""Blobs of this node: payloads and code zips by SHA-256, on disk, checked and fsynced before anyone relies on them.

`api_server` puts and gets them for drivers and other agents; `starting` asks for what a replica needs and fetches it
from an agent that holds it. Their bytes never go through etcd; who holds what is written under `/blobs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from pathlib import Path

import grpc
import grpc.aio

from serve_rt.agents.code_zip import unpack
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import ConfigError, NotFoundError, ServeException, UnavailableError
from serve_rt.model.ids import BlobDigest
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

CHUNK_BYTES = 1 << 20
MAX_BLOB_BYTES = 512 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """`holders(digest)` names the addresses of agents that have it; `stored(digest)` is told of each new blob."""

    def __init__(
        self,
        state: StateDir,
        token: ClusterToken,
        holders: Callable[[BlobDigest], Iterable[str]],
        stored: Callable[[BlobDigest], None],
    ) -> None:
        self._folder = state.blobs
        self._token = token
        self._holders = holders
        self._stored = stored
        self._fetching: dict[BlobDigest, asyncio.Lock] = {}
        self.asked_for: set[BlobDigest] = set()
        """Put or read since `blob_sweep` last looked."""

    def path(self, digest: BlobDigest) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{digest[:80]!r} is not a blob digest: 64 hex digits are")
        return self._folder / digest

    def has(self, digest: BlobDigest) -> bool:
        return self.path(digest).is_file()

    def digests(self) -> tuple[BlobDigest, ...]:
        return tuple(BlobDigest(p.name) for p in self._folder.iterdir() if _DIGEST.fullmatch(p.name))

    async def put(self, digest: BlobDigest, chunks: AsyncIterable[bytes]) -> bool:
        """Store the bytes; True when they were here before. *Errors*: ConfigError when they do not match `digest`."""
        target = self.path(digest)
        existed = target.is_file()
        staged = self._folder / f".{digest}.{secrets.token_hex(4)}"
        seen, size = hashlib.sha256(), 0
        try:
            with open(staged, "xb") as file:  # noqa: ASYNC230 - local disk, a chunk at a time
                os.fchmod(file.fileno(), 0o600)
                async for chunk in chunks:
                    size += len(chunk)
                    if size > MAX_BLOB_BYTES:
                        raise ConfigError(f"blob {digest} has more than {MAX_BLOB_BYTES >> 20} MiB: refused")
                    seen.update(chunk)
                    file.write(chunk)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            if seen.hexdigest() != digest:
                raise ConfigError(f"blob {digest} arrived with the digest {seen.hexdigest()}: refused")
            os.replace(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        self.asked_for.add(digest)
        self._stored(digest)
        return existed

    def drop(self, digest: BlobDigest) -> Callable[[], None]:
        """Take the blob and its unpacked folder away: at once for whoever asks, what it returns frees the disk."""
        self.path(digest).unlink(missing_ok=True)
        unpacked, going = self._folder / f"{digest}.d", self._folder / f".{digest}.{secrets.token_hex(4)}.d"
        with contextlib.suppress(FileNotFoundError):
            unpacked.rename(going)
        return lambda: shutil.rmtree(going, ignore_errors=True)

    async def read(self, digest: BlobDigest) -> AsyncIterator[bytes]:
        """Its bytes in chunks. *Errors*: NotFoundError."""
        self.asked_for.add(digest)
        try:
            file = open(self.path(digest), "rb")  # noqa: ASYNC230, SIM115 - local disk, a chunk at a time
        except FileNotFoundError:
            raise NotFoundError(f"blob {digest} is not on this node") from None
        with file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                await asyncio.sleep(0)  # a large blob must not hold the loop

    async def ensure(self, digest: BlobDigest) -> Path:
        """The blob's file, fetched from another agent if need be.

        *Errors*: UnavailableError naming who was asked when nobody gave it.
        """
        self.asked_for.add(digest)
        if self.has(digest):
            return self.path(digest)
        async with self._fetching.setdefault(digest, asyncio.Lock()):
            if not self.has(digest):
                await self._fetch(digest)
        self._fetching.pop(digest, None)
        return self.path(digest)

    async def code_dir(self, digest: BlobDigest) -> Path:
        """The unpacked folder of a code zip."""
        archive = await self.ensure(digest)
        return await asyncio.to_thread(unpack, archive, archive.with_name(f"{digest}.d"))

    async def _fetch(self, digest: BlobDigest) -> None:
        tried: list[str] = []
        for address in self._holders(digest):
            try:
                await self.put(digest, fetch_chunks(address, self._token, digest))
                return
            except ServeException as error:
                tried.append(f"{address}: {error}")
        raise UnavailableError(
            f"blob {digest[:12]}… is on no agent that answers (asked: {'; '.join(tried) or 'none holds it'}); "
            "deploy the application again"
        )


async def fetch_chunks(address: str, token: ClusterToken, digest: BlobDigest) -> AsyncIterator[bytes]:
    async with control_channel(address, token) as channel:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
        request = pb.GetBlobRequest(digest=digest, local_only=True)
        try:
            async for chunk in stub.GetBlob(request, timeout=300.0):
                yield chunk.data
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"GetBlob of {address}") from error


async def push_blob(address: str, token: ClusterToken, digest: BlobDigest, chunks: AsyncIterable[bytes]) -> None:
    """Give a copy to another agent. *Errors*: ServeException."""

    async def parts() -> AsyncIterator[pb.BlobChunk]:
        yield pb.BlobChunk(digest=digest, local_only=True)
        async for chunk in chunks:
            yield pb.BlobChunk(data=chunk)

    async with control_channel(address, token) as channel:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
        try:
            await stub.PutBlob(parts(), timeout=300.0)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"PutBlob to {address}") from error
