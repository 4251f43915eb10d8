"""Bridges to other frameworks; each module imports its own and is imported on demand."""
