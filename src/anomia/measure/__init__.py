"""What the records say: fates, drops, ranks, reach, the verdict, and how sure each of them is.

Every function takes NumPy arrays or plain sequences, one entry an item, and knows nothing of records.
"""
