"""What a study will cost and how many questions it needs, before it is run: tokens, memory, time, money, power."""
