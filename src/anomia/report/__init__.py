"""What people read: terminal tables, items, exports."""
