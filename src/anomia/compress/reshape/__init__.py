"""Methods that make a model smaller by taking whole parts out: blocks, heads and channels, directions, experts.

The result is an ordinary model of the same class with a smaller configuration, which `from_pretrained` loads.
"""
