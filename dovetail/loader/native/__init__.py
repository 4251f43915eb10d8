"""Adapters that the bank runs by itself: read from a payload's files, applied row by row.

``read.read_native`` turns a payload into a ``NativeAdapter`` without building anything in the
model; ``hooks.ModuleHooks`` applies any mixture of them to the rows of a batch.
"""
