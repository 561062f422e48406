"""What people read: terminal tables, items and exports."""
