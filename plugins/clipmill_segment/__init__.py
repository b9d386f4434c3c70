"""Segmenters: which class each pixel of a frame is of, learnt from stored masks.

Each plugin's own module (fields, views, sampling) is free of torch; its network lives beside it
and is imported by `build`.
"""
