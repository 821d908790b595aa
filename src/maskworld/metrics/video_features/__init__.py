"""Networks whose features the published video metrics compare, and how their weights are read.

The graphs are ours, built from their published descriptions; the weights are the user's.
"""
