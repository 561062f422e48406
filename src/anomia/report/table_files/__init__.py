"""The tables of one run or of several, as files."""

from __future__ import annotations

from anomia.report.table_files.table import Column, Table, shown
from anomia.report.table_files.write import csv_text, latex, markdown, tables, write_tables

__all__ = ["Column", "Table", "csv_text", "latex", "markdown", "shown", "tables", "write_tables"]
