"""What people type: shell files for the rows of tables, and the Python programs beside them."""
