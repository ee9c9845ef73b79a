"""A node that serves HTTPS, from its flags to a renewed certificate."""

from __future__ import annotations

import http.client
import shutil
import ssl
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Node
from tests.cluster.test_proxy_restarts import restart_proxies
from tests.proxy.certificates import Pair, make_pair


def asked(node: Node, trusted: Pair) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=trusted.certfile)
    connection = http.client.HTTPSConnection("127.0.0.1", node.http_port, timeout=10, context=context)
    try:
        connection.request("GET", "/?nonce=tls")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_https_from_the_flag_to_a_renewed_certificate(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    first, second = make_pair(tmp_path, "first"), make_pair(tmp_path, "second")
    live = Pair(str(tmp_path / "live.pem"), str(tmp_path / "live.key"))

    def install(pair: Pair) -> None:
        shutil.copy(pair.certfile, live.certfile)
        shutil.copy(pair.keyfile, live.keyfile)

    install(first)
    cluster = cluster_of(1, "--http-ssl-certfile", live.certfile, "--http-ssl-keyfile", live.keyfile)
    node = cluster.node
    assert node.ready["http_address"].startswith("https://")
    cluster.deploy("echo", num_replicas=1)  # returns when the driver has asked the proxy for its routes
    assert asked(node, first)[0] == 200 and b'"tls"' in asked(node, first)[1]

    Path(live.keyfile).write_text("not a key")
    with pytest.raises(AssertionError, match="did not come up"):
        restart_proxies(node, cluster)
    assert asked(node, first)[0] == 200, "the old worker goes on"

    install(second)
    restart_proxies(node, cluster)
    assert asked(node, second)[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(node, first)
