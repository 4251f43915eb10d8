"""Classification and embeddings on the frozen base's own weights, adapters through PEFT.

``head`` wraps an adapter once; ``classify`` and ``embed`` run rows. A head is a second, empty set
of outer modules around the base's own layers: nothing of the base is copied, and its module tree
changes only while a batch of the adapter runs.
"""
