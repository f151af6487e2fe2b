"""`edge-demo web` for a phone: https with the machine's own certificate, and a QR code."""

from __future__ import annotations

import datetime
import os
import pty
import re
import ssl
import stat
import subprocess
import sys

import cv2
import numpy as np
import pytest
from cryptography import x509
from helpers import BIN
from served import ask, running

from edge_demo.server import certificate

HALVES = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}  # light modules: upper, lower


@pytest.fixture
def folder(tmp_path):
    web = tmp_path / "web"
    web.mkdir()
    for name in ("classifier.json", "index.html"):
        (web / name).write_text("page")
    return tmp_path


@pytest.fixture
def own(tmp_path):
    """The environment of a user who has no certificate yet, and where it will be."""
    where = tmp_path / "config/edge-demo"
    return {**os.environ, "XDG_CONFIG_HOME": str(where.parent)}, where


def test_a_client_that_verifies_takes_its_certificate(folder, own):
    environment, where = own
    options = ("web", folder, "--https", "--port", 0)
    with running(*options, environment=environment) as found:
        assert found.url.startswith("https://127.0.0.1:")
        files = {path.name: path.read_bytes() for path in where.iterdir()}
        assert files.keys() == {"certificate.pem", "key.pem"}
        assert stat.S_IMODE((where / "key.pem").stat().st_mode) == 0o600
        trusting = ssl.create_default_context(cafile=where / "certificate.pem")
        for name in ("127.0.0.1", "localhost"):
            url = found.url.replace("127.0.0.1", name)
            assert ask(url, "/", tls=trusting).text == "page"
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(found.url, "/", tls=ssl.create_default_context())
        old = ssl.create_default_context(cafile=where / "certificate.pem")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            ask(found.url, "/", tls=old)
        assert not found.tell(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP")
        assert ask(found.url, "/", tls=trusting).code == 200
    with running(*options, environment=environment):
        assert files == {path.name: path.read_bytes() for path in where.iterdir()}


def test_the_certificate_is_renewed_and_its_key_stays(tmp_path, monkeypatch):
    def made(*names):
        certificate.context(*certificate.self_signed(tmp_path, names))
        pems = [(tmp_path / name).read_bytes() for name in ("certificate.pem", "key.pem")]
        found = x509.load_pem_x509_certificate(pems[0])
        inside = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        texts = {str(name.value) for name in inside}
        return [*pems, texts, found.not_valid_after_utc - found.not_valid_before_utc]

    first = made("localhost", "pi.local", "10.0.0.8")
    assert first[2] == {"localhost", "pi.local", "10.0.0.8"}
    assert first[3] < datetime.timedelta(days=398)  # what browsers take
    assert made("10.0.0.8", "localhost") == first
    with monkeypatch.context() as soon:  # ends within a month
        soon.setattr(certificate, "VALID", datetime.timedelta(days=29))
        moved = made("localhost", "10.0.0.9")
    assert moved[:3] == [moved[0], first[1], {"localhost", "10.0.0.9"}]
    renewed = made("localhost", "10.0.0.9")
    assert renewed[0] != moved[0] and renewed[1:3] == moved[1:3]
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).write_bytes(b"damaged")
        anew = made("localhost")
        assert (anew[1] == first[1]) == (name == "certificate.pem")
    _, key = certificate.self_signed(tmp_path / "other", ["localhost"])
    key.replace(tmp_path / "key.pem")
    assert made("localhost")[0] != anew[0]


def test_a_certificate_of_ones_own(folder, tmp_path):
    cert, key = certificate.self_signed(tmp_path / "own", ["localhost"])
    with running("web", folder, "--port", 0, "--cert", cert, "--key", key) as found:
        url = found.url.replace("127.0.0.1", "localhost")
        assert ask(url, "/", tls=ssl.create_default_context(cafile=cert)).text == "page"
        assert "Advanced" not in found.err.read_text()


def test_without_the_extra(edge_cli, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    done = edge_cli("web", folder, "--https", "--port", 0)
    assert (done.code, done.out) == (2, "") and "pip install 'tfvit[web]'" in done.err


def test_its_qr_code_leads_to_the_page(folder, own):
    text = in_a_terminal("web", folder, "--host", "0.0.0.0", "--https", "--port", 0, env=own[0])
    *_, url = re.findall(r"https://\S+", text)
    if "localhost" in url:
        pytest.skip("this machine is in no network")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    code = [line for line in lines if line and set(line) <= HALVES.keys()]
    light = np.array([[HALVES[c] for c in line] for line in code], np.uint8)
    picture = 255 * light.transpose(0, 2, 1).reshape(-1, light.shape[1])
    assert (
        cv2.QRCodeDetector().detectAndDecode(np.kron(picture, np.ones((8, 8), np.uint8)))[0] == url
    )
    assert "\x1b[97" in text and "\x1b[40m" in text  # of any terminal


def in_a_terminal(*arguments, env):
    """What a command says there until it has told everything."""
    mine, its = pty.openpty()
    command = [BIN / "edge-demo", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=env)
    os.close(its)
    try:
        text = b""
        while b"go on" not in text:  # a command that ends before is an error
            text += os.read(mine, 1 << 16)
        process.terminate()
        assert process.wait(60) == 0
        return text.decode()
    finally:
        process.kill()
        os.close(mine)


def test_a_browser_may_use_its_camera_and_threads(folder, own, browse):
    (folder / "web/index.html").write_text("<link rel=icon href=data:,>")
    with running("web", folder, "--https", "--port", 0, environment=own[0]) as found:
        page = browse(found.url, ignore_https_errors=True)
        may = "[isSecureContext, crossOriginIsolated, !!navigator.mediaDevices]"
        assert page.evaluate(may) == [True] * 3
