"""Where results go, and how they look there.

sinks.py     lines, pictures, videos, a folder of what is to be labelled
render.py    a result as bars, JSON or CSV
annotate.py  on the picture
terminal.py  in a terminal, in place
"""
