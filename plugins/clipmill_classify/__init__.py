"""Clip classifiers: one class a video, learnt from its frames.

Each plugin's own module (fields, views, sampling) is free of torch; its network lives beside it
and is imported by `build`.
"""
