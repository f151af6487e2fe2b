"""A .tflite: what is in the file, and LiteRT, which runs it.

metadata.py      its labels, preprocessing and provenance
foreign.py       models from elsewhere;  schema.py  what their own metadata and graph tell
runtime.py       the file in LiteRT: its input filled, its outputs in float; delegates
weight_cache.py  the same with packed weights kept in a file
delegation.py    which operations XNNPACK takes, and why not the others
"""
