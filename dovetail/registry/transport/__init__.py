"""Moving house: adapters with all that belongs to them, written to a bundle and added from one.

A bundle is a directory or an uncompressed zip file with the same names in it: the blobs under
``blobs/sha256/ab/cdef…``, and ``dovetail-export.json``, which says what they are. What is known of
each adapter and base model is a *document*, canonical JSON, and a blob itself; so every byte of a
bundle is hashed before it is used.
"""
