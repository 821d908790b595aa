"""Episodes on disk to batches: storage, sources, windows, transforms, mixtures, loading.

Nothing is imported here: import from the modules, so that small ones stay quick to import.
"""
