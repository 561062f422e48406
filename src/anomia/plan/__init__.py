"""Plans a study before it is run: its cost in tokens, memory, time and money, and the number of questions it needs."""
