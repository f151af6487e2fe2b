"""A network camera on loopback, for the tests of what is live."""

from __future__ import annotations

import http.server
import io
import threading
import time

from PIL import Image


def encoded(picture, kind):
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


class Camera(http.server.ThreadingHTTPServer):
    """MJPEG at 30 frames a second, a grey level a frame."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.stopped = threading.Event()
        self.address = f"http://user:secret@127.0.0.1:{self.server_port}/video.mjpeg"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.stopped.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        while not self.server.stopped.is_set():
            picture = encoded(Image.new("L", (64, 64), number % 256), "JPEG")
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + picture + b"\r\n")
            except OSError:
                return
            number += 1
            time.sleep(1 / 30)

    def log_message(self, *_):
        pass
