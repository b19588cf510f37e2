"""The report page: figures, tables, templates."""
