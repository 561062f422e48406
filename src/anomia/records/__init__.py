"""Records: one row per arm and item, written to and read from Parquet."""

from anomia.records.build import item_rows, record, with_own
from anomia.records.schema import ITEM_SCHEMA, SCHEMA
from anomia.records.store import checked, is_sound, read_rows, upgrade, write_rows

__all__ = [
    "ITEM_SCHEMA", "SCHEMA", "checked", "is_sound", "item_rows", "read_rows", "record", "upgrade",
    "with_own", "write_rows",
]  # fmt: skip
