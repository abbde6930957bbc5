"""What people type: shell files for the rows of tables, and Python programs."""
