"""Where results go, and how they look there.

sinks.py     lines, pictures, videos, a folder of what is to be labelled
render.py    results as bars, JSON and CSV;  annotate.py  on the picture;  terminal.py  in place
"""
