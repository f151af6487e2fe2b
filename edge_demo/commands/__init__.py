"""The commands of `edge-demo`, one module each; what they run is imported when they are called.

options.py  options that these share
"""
