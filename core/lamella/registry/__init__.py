"""How a name in a file becomes an object."""
