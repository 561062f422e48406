"""Text of tables: for the terminal, the page, CSV, Markdown and LaTeX. Each takes any table."""
