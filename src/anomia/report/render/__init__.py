"""Text renderings of any table: for the terminal, the page, CSV, Markdown and LaTeX."""
