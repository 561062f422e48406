"""The questions put to a model about an item, and the engines that answer them."""
