"""Network cameras on loopback, for the tests of what reads them: MJPEG over HTTP, and RTSP."""

from __future__ import annotations

import http.server
import io
import itertools
import re
import socketserver
import struct
import threading
import time

from PIL import Image

RATE = 30  # frames a second


def encoded(picture, kind):
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def jpeg(number, size=(64, 64)):
    """Frame `number` of a camera: one grey level."""
    return encoded(Image.new("RGB", size, (number % 256,) * 3), "JPEG")


class Camera(http.server.ThreadingHTTPServer):
    """MJPEG over HTTP; `picture` gives the JPEG of frame n, `rate` frames a second; `sent` counts them."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, port=0, picture=jpeg, rate=RATE):
        super().__init__(("127.0.0.1", port), _Http)
        self.stopped, self.picture, self.rate, self.sent = threading.Event(), picture, rate, 0
        self.address = f"http://user:secret@127.0.0.1:{self.server_port}/video.mjpeg"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.stopped.set()
        self.shutdown()
        self.server_close()


class _Http(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        began = time.monotonic()
        for number in itertools.count():
            picture = self.server.picture(number)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            due = began + number / self.server.rate
            if self.server.stopped.wait(max(0, due - time.monotonic())):
                return
            try:
                self.wfile.write(head.encode() + picture + b"\r\n")
            except OSError:
                return
            self.server.sent += 1

    def log_message(self, *_):
        pass


class RtspCamera(socketserver.ThreadingTCPServer):
    """RTSP (RFC 2326) with JPEG pictures (RFC 2435), both in one TCP connection."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _Rtsp)
        self.stopped = threading.Event()
        self.address = f"rtsp://127.0.0.1:{self.server_address[1]}/live"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.stopped.set()
        self.shutdown()
        self.server_close()


SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"


class _Rtsp(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline().decode():
            method, headers = line.split()[0], {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            self._answer(method, headers)
            if method == "PLAY":
                return self._play()

    def _answer(self, method, headers):
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            extra, body = "Content-Type: application/sdp\r\n", SDP
        elif method == "SETUP":
            assert "TCP" in headers["transport"]
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        head = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
        self.wfile.write((head + body).encode())

    def _play(self):
        sequence, began = itertools.count(), time.monotonic()
        for number in itertools.count():
            if self.server.stopped.wait(max(0, began + number / RATE - time.monotonic())):
                return
            try:
                for packet in _rtp(jpeg(number), number * 90000 // RATE, sequence):
                    self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
            except OSError:
                return


def _rtp(picture, stamp, sequence):
    """The packets of a JPEG of 4:2:0 with standard Huffman tables, which are not sent."""
    tables = b"".join(re.findall(rb"\xff\xdb\x00\x43[\x00\x01](.{64})", picture, re.DOTALL))
    height, width = struct.unpack(">HH", re.search(rb"\xff\xc0...(.{4})", picture, re.DOTALL)[1])
    start = picture.index(b"\xff\xda")
    scan = picture[start + 2 + struct.unpack(">H", picture[start + 2 : start + 4])[0] : -2]
    for offset in range(0, len(scan), 1000):
        part, last = scan[offset : offset + 1000], offset + 1000 >= len(scan)
        rtp = struct.pack(">BBHII", 0x80, 26 | last << 7, next(sequence) % 65536, stamp, 7)
        head = struct.pack(">IBBBB", offset, 1, 255, width // 8, height // 8)
        quantization = b"" if offset else struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield rtp + head + quantization + part
