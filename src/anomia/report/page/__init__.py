"""The report: one page that opens from disk, with its figures and tables next to it."""
