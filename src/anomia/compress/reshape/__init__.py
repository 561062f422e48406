"""Methods that remove whole parts of a model: blocks, heads and channels, hidden dimensions, experts.

The result is an ordinary model of the same class with a smaller configuration, which `from_pretrained` loads.
"""
