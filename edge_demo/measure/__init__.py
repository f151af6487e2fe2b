"""What a file does on this device: how fast it is, and whether it computes what the export did.

benchmark.py  how fast files are;  bare.py  any .tflite;  profiler.py  where its time goes
parity.py     the reference pictures of an export, once more
runner.py     a .tflite in a process of its own, which it may end
"""
