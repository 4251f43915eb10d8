"""Dovetail: a versioned registry for soft prompts and LoRA adapters."""

__version__ = "0.1.0"
