"""The report: one page that opens from disk, with its figures and tables beside it."""
