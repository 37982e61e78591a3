"""The techniques, one module each; one slug names a technique in every room of the project."""
