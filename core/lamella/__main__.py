"""``python -m lamella``, and what ``accelerate launch -m lamella`` starts."""

from lamella.cli.main import main

if __name__ == "__main__":
    main()
