"""Pretexts: what unlabelled video itself asks and answers, so that a backbone learns from it.

Each plugin's own module (fields, views, sampling) is free of torch; its network lives beside it
and is imported by `build`. Backbones are those of the classifiers, tensor names included.
"""
