"""Where pictures come from: what a `--source` is, as frames.

source.py        files, videos, cameras, streams, the screen, stdin: the choice by name
frames.py        one picture of a source, and when it was taken
feeds.py         cameras, streams and the screen, by FFmpeg or picamera2
live.py          always the newest frame of these, and again when they come back
image_stream.py  images one behind the other on stdin
"""
