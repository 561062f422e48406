"""What is asked of a model about an item, and the engines that answer."""
