"""What the records show: fates, drops, ranks, oracle recovery and the verdict, each with its uncertainty.

Statistical functions take NumPy arrays or plain sequences with one entry per item and know nothing of records.
"""
