"""The versioned store: SQL for facts, objects for bytes. Imports no model framework."""
