"""Look inside a model: attention.py, where it looks."""
