"""Text files to documents, and what languages and scripts look like."""
