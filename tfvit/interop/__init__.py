"""Weights of other libraries: for each a table of (their name, our name, order of the axes).

huggingface.py   transformers' ViT and DINOv2 folders
"""
