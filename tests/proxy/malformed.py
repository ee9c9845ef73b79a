"""Raw requests that no strict reader takes, kind by kind: each may only be refused, and no byte of it forwarded.

What llhttp takes although it is odd, and is harmless because all readers understand it alike, is in ODD: it must be
forwarded as one request, or refused, but never as anything else.
"""

from __future__ import annotations

from collections.abc import Iterator

GET = b"GET / HTTP/1.1\r\n"
HOST = b"host: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
CONTROLS = [bytes((n,)) for n in (*range(9), 11, 12, *range(14, 32), 127)]
SEPARATORS = [bytes((n,)) for n in b'(),/;<=>?@[\\]{}"']


def request_lines() -> Iterator[bytes]:
    for line in (
        b"GET / HTTP/9.9", b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/1.2", b"GET / HTTP/11.1",
        b"GET / HTTP/1",
        b"GET / HTTP/1.", b"GET / HTTP/.1", b"GET / HTTP", b"GET / http/1.1", b"GET / HTTPS/1.1", b"GET / HTTP/1.1x",
        b"GET / HTTP /1.1", b"GET / HTTP/1 .1", b"GET / HTTP/1.1 extra", b"GET / HTTP/+1.1", b"GET / HTTP/1.\xb2",
        b"get / HTTP/1.1", b"Get / HTTP/1.1", b"GET/HTTP/1.1", b"FROBNICATE / HTTP/1.1", b"G\x00ET / HTTP/1.1",
        b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b" GET / HTTP/1.1", b"\tGET / HTTP/1.1", b"GET", b"GET ", b"GET /",
        b"/",
        b"GET / / HTTP/1.1", b"GET /a b HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /#fragment HTTP/1.1", b"GET /?a#b HTTP/1.1", b"GET nothing HTTP/1.1", b"GET ../x HTTP/1.1",
        b"GET ? HTTP/1.1",
        b"GET * HTTP/1.1", b"CONNECT x:443 HTTP/1.1", b"CONNECT / HTTP/1.1", b"CONNECT http://x/ HTTP/1.1",
        b"GET http://other/ HTTP/1.1", b"GET http://x@other/ HTTP/1.1", b"GET http:///x HTTP/1.1",
        b"GET ftp://x/ HTTP/1.1", b"GET x:80 HTTP/1.1", b"GET http:x HTTP/1.1", b"PRI * HTTP/2.0", b"GET x HTTP/1.1",
        b"HTTP/1.1 200 OK", b"GET /\x0bHTTP/1.1", b"GET\x0c/ HTTP/1.1", b"GE\r T / HTTP/1.1", b"GET /\r HTTP/1.1",
    ):  # fmt: skip
        yield line + b"\r\n" + HOST + b"\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # TLS to a plain port
    yield b"\x00" * 100
    yield b"\r\n\r\n\r\nGARBAGE\r\n\r\n"
    yield b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    yield b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + GET + HOST + b"\r\n"


def line_ends() -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\nhost: x\n\n"
    yield b"GET / HTTP/1.1\rhost: x\r\r"
    yield GET + b"host: x\n\n"
    yield GET + b"host: x\nx: y\r\n\r\n"
    yield GET + b"host: x\r\nx: y\n\r\n"
    yield GET + b"host: x\r\rx: y\r\n\r\n"
    yield GET + b"host: x\r\nx: y\rz: w\r\n\r\n"
    yield GET + b"host: x\r\n\rx: y\r\n\r\n"
    yield GET + b"host: x\r\nx: y\r\r\n\r\n"
    yield GET + HOST + b"x: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield GET + HOST + b"x: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def header_names() -> Iterator[bytes]:
    for char in (*CONTROLS, *SEPARATORS, b" ", b"\t", b"\x80", b"\xff", b"\xc3\xa9"):
        yield GET + HOST + b"x" + char + b"y: v\r\n\r\n"
    for line in (b"no-colon", b": empty-name", b"na me: v", b"name : v", b"name\t: v", b" leading: v", b"x\r\n: v"):
        yield GET + HOST + line + b"\r\n\r\n"
    yield GET + b"host : x\r\n\r\n"
    yield GET + b" host: x\r\n\r\n"
    yield GET + HOST + b"".join(b"h%d: v\r\n" % n for n in range(500)) + b"\r\n"


def header_values() -> Iterator[bytes]:
    for char in CONTROLS:
        yield GET + HOST + b"x: a" + char + b"b\r\n\r\n"
    yield GET + HOST + b"x: " + b"a" * 70_000 + b"\r\n\r\n"
    for fold in (b" ", b"\t", b"  \t", b" \r\n "):
        yield GET + HOST + b"x: a\r\n" + fold + b"folded\r\n\r\n"
    yield GET + b"host: x\r\n folded\r\n\r\n"
    yield POST + b"content-length:\r\n 5\r\n\r\nhello"
    yield POST + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n"
    yield POST + b"transfer-encoding: x\r\n chunked\r\n\r\n0\r\n\r\n"


def hosts() -> Iterator[bytes]:
    yield GET + b"\r\n"
    yield GET + b"host: a\r\nhost: b\r\n\r\n"
    yield GET + b"host: a\r\nHost: a\r\n\r\n"
    yield b"GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n"
    for host in (
        b"a b", b"a,b", b"a/b", b"a@b", b"a?b", b"a#b", b"a:b", b"a:80:90", b"[::1", b"::1", b"a\\b", b"<a>", b"\xe9",
    ):  # fmt: skip
        yield GET + b"host: " + host + b"\r\n\r\n"


def lengths() -> Iterator[bytes]:
    for length in (
        b"-1", b"+5", b"5 5", b"0x5", b"5,5", b"5, 6", b"5;5", b"99999999999999999999999", b"18446744073709551621",
        b"5.0",
        b"", b" ", b"5e0", b"five", b"'5'", b"5_0", b"\xb2", b"5\x0b", b"5\x00", b"1 ,", b"5\tx", b"0-5", b"--5",
    ):  # fmt: skip
        yield POST + b"content-length: " + length + b"\r\n\r\nhello" + SMUGGLED
    yield POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello"
    yield POST + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello"
    yield POST + b"content-length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED
    yield POST + b"content-length : 5\r\n\r\nhello"
    yield POST + b"content-length: 5\r\nContent_Length: 6\r\ncontent-length: 6\r\n\r\nhello"


def codings() -> Iterator[bytes]:
    for coding in (
        b"chunked, identity", b"identity, chunked, identity", b"identity", b"xchunked", b"chunkedx", b"chunked,",
        b", chunked",
        b"gzip, chunked", b"chunked, chunked", b"chunked;q=1", b'"chunked"', b"'chunked'", b"\x0bchunked",
        b"chunked\x00",
        b"chu nked", b"chunked foo", b"deflate", b"identity, chunked", b"\x00chunked", b"c hunked", b"chunked\x0c",
        b"",
        b"chunked\x1f", b"chunked\xff", b"cow",
    ):  # fmt: skip
        yield POST + b"transfer-encoding: " + coding + b"\r\n\r\n0\r\n\r\n" + SMUGGLED
    for name in (b"transfer-encoding ", b"transfer-encoding\t", b" transfer-encoding", b"transfer-encoding\x0b"):
        yield POST + name + b": chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield POST + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    for length in (b"0", b"4", b"5", b"44"):
        yield CHUNKED + b"content-length: " + length + b"\r\n\r\n0\r\n\r\n" + SMUGGLED
        yield POST + b"content-length: " + length + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
        yield POST + b"content-length: " + length + b"\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n" + SMUGGLED


def chunks() -> Iterator[bytes]:
    for size in (
        b"xyz", b"-5", b"+5", b"0x5", b" 5", b"5 5", b"5.0", b"", b" ", b"g", b"5\x00", b"5\x0b", b"\xb2", b"5,5",
        b"_5",
        b"fffffffffffffffff", b"10000000000000005", b"8000000000000000 ", b"5h",
    ):  # fmt: skip
        yield CHUNKED + b"\r\n" + size + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n5\r\nhelloXX0\r\n\r\n"
    yield CHUNKED + b"\r\n5\r\nhello0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n5\r\nhello\n0\n\n" + SMUGGLED
    yield CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n5\rhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n4\r\nhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n6\r\nhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX" + SMUGGLED[:8] + b"\x00\r\n\r\n"
    yield CHUNKED + b"\r\n5;a\nb\r\nhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n5;a=\x00\r\nhello\r\n0\r\n\r\n" + SMUGGLED
    yield CHUNKED + b"\r\n5;" + b"a" * 1_000_000 + b"\r\nhello\r\n"
    yield CHUNKED + b"\r\n" + b"1;" * 1 + b"=" * 400_000 + b"\r\nh\r\n"
    yield CHUNKED + b"\r\n1\r\nh\r\n0\r\n" + b"".join(b"trailer-%d: v\r\n" % n for n in range(40_000))
    yield CHUNKED + b"\r\n1\r\nh\r\n0\r\ntrailer: " + b"v" * 1_000_000
    framing = (b"content-length: 39", b"transfer-encoding: chunked")
    for trailer in (b"no-colon", b"a b: c", b"x: \x00", b" folded: c", b": c", *framing):
        yield CHUNKED + b"\r\n5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n" + SMUGGLED


def upgrades() -> Iterator[bytes]:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    yield POST + upgrade + key + b"\r\n"
    yield POST + upgrade + key + b"content-length: 5\r\n\r\nhello"
    yield CHUNKED + upgrade + key + b"\r\n0\r\n\r\n" + SMUGGLED
    yield GET + HOST + upgrade + key + b"content-length: 44\r\n\r\n" + SMUGGLED
    yield b"GET / HTTP/1.0\r\n" + HOST + upgrade + key + b"\r\n"
    yield GET + HOST + upgrade + b"\r\n"
    h2c = b"connection: upgrade\r\nupgrade: h2c\r\n"
    yield POST + h2c + b"content-length: 39\r\n\r\n" + SMUGGLED
    yield POST + h2c + b"transfer-encoding: chunked\r\n\r\n27\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
    yield GET + HOST + h2c + b"content-length: 0\r\n\r\n" + SMUGGLED
    yield GET + HOST + upgrade + b"sec-websocket-key: short\r\n\r\n"
    yield GET + HOST + upgrade + key + key + b"\r\n"
    yield GET + HOST + upgrade.replace(b"13", b"12") + key + b"\r\n"
    yield GET + HOST + upgrade.replace(b"13", b"x") + key + b"\r\n"
    yield GET + upgrade + key + b"\r\n"


KINDS = {
    kind.__name__: tuple(kind())
    for kind in (
        request_lines,
        line_ends,
        header_names,
        header_values,
        hosts,
        lengths,
        codings,
        chunks,
        upgrades,
    )
}

ODD: tuple[bytes, ...] = (
    b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"\r\n\r\n" + GET + HOST + b"\r\n",
    b"GET http://x/ HTTP/1.1\r\n" + HOST + b"\r\n",
    GET + b"host:x\r\n\r\n",
    GET + b"host: \t x \t \r\n\r\n",
    GET + b"host: [::1]:80\r\n\r\n",
    GET + b"host: \r\n\r\n",
    GET + HOST + b"x:\r\n\r\n",
    GET + HOST + b"x: \xe9\t\xff\r\n\r\n",
    b"GET //x/../%2e%2e/%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    POST + b"content-length: 005\r\n\r\nhello",
    POST + b'Transfer-Encoding: CHUNKED\r\n\r\n5;name="va;lue"\r\nhello\r\n0\r\n\r\n',
    CHUNKED + b"\r\n0005\r\nhello\r\n000\r\ntrailer: dropped\r\n\r\n",
)
