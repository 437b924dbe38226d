"""What becomes of the samples: a file with all of them, a table, charts, and a page of the documentation."""
