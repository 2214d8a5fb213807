"""One module for each kind of file that images come in, and what such a file says besides its pixels."""
