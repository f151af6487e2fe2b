"""What is served over HTTP: `--serve` and `edge-demo web`.

live_page.py     --serve: the newest picture (page.html), the same for programs, metrics.py for Prometheus
web_folder.py    `edge-demo web`: the files of an exported web folder, for browsers
certificate.py   https for a local network
bounded_http.py  the server under both: whoever asks, everything about it is bounded;  http_messages.py
"""
